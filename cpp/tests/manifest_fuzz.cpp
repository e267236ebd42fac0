// Reads manifests from the named files; any result except a manifest or a Failure is a fault.
#include <cstdio>
#include <fstream>
#include <iterator>

#include "failure.h"
#include "manifest.h"

int main(int count, char** values) {
  int refused = 0;
  for (int i = 1; i < count; ++i) {
    std::ifstream file(values[i], std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    try {
      const auto manifest = streamseg::core::parse_manifest(content);
      for (uint64_t step : {0, 1, 2, 3, 1000000}) manifest.row_at(step);
    } catch (const streamseg::core::Failure&) {
      ++refused;
    }
  }
  std::printf("%d of %d refused\n", refused, count - 1);
  return 0;
}
