// Loads an operator library and prints its version and the level that it chose: for processors
// that have no Python here.
#include <dlfcn.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  void* library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  using Text = const char* (*)();
  const auto version = reinterpret_cast<Text>(dlsym(library, "streamseg_version"));
  const auto level = reinterpret_cast<Text>(dlsym(library, "streamseg_level"));
  if (version == nullptr || level == nullptr) return 1;
  std::printf("%s %s\n", version(), level());
  return 0;
}
