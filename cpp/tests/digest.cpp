// digest [portable] < FILE: prints the SHA-256 of FILE.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <vector>

#include "sha256.h"

int main(int count, char**) {
  const std::vector<char> content{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  const auto* data = reinterpret_cast<const uint8_t*>(content.data());
  std::puts(streamseg::core::digest(data, content.size(), count > 1).c_str());
}
