// engine_check FOLDER GRAPH_DIGEST VERSION GPU CAPABILITY DRIVER PLUGINS:
// writes the engine 'step', or exits with the status and prints why it is rejected.
#include <cstdio>

#include "engine.h"
#include "failure.h"

int main(int count, char** values) {
  if (count != 8) return 2;
  streamseg::core::EngineFolder folder(values[1], {values[3], values[4], values[5], values[6], values[7]});
  try {
    const auto content = folder.read("step", values[2]);
    std::fwrite(content.data(), 1, content.size(), stdout);
  } catch (const streamseg::core::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return failure.status;
  }
  return 0;
}
