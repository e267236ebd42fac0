// Counts checks and prints those that fail.
#pragma once

#include <cstdio>
#include <string>

#include "c_api.h"

inline int passed = 0;
inline int failed = 0;

inline void expect(bool holds, const std::string& what) {
  if (holds) {
    ++passed;
  } else {
    ++failed;
    std::printf("FAILED: %s (%s)\n", what.c_str(), streamseg_last_error());
  }
}

inline int report() {
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
