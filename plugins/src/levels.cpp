#include "levels.h"

#include <atomic>
#include <cstdlib>
#include <vector>

#include "ops.h"
#include "trials.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace streamseg {
namespace {

struct Levels {
  std::vector<const KernelTable<float>*> tables;  // fastest last
  std::string rejected;

  void add(const KernelTable<float>* table, bool supported) {
    if (table != nullptr && supported) tables.push_back(table);
  }
};

#if defined(__x86_64__)
// AVX-VNNI, by its bit: not every compiler knows a name for it.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1u) != 0;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

bool has_avx512_bf16() { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }

// Tiles, and products of integers and of bfloat16 numbers.
bool has_amx() {
  constexpr unsigned kBits = 1u << 22 | 1u << 24 | 1u << 25;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kBits) == kBits;
}

// Whether the operating system keeps tiles when it switches threads.
bool tiles_are_kept() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c >> 27 & 1u) == 0) return false;
  constexpr unsigned kTileState = 3u << 17;
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & kTileState) == kTileState;
}

// Linux gives tiles to processes that request them.
bool request_tiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Why tiles are not used: "" if they give the same numbers as `trusted`.
std::string find_obstacle(const KernelTable<float>& tiles, const KernelTable<float>& trusted) {
  if (!tiles_are_kept()) return "the operating system does not support tiles";
  if (!request_tiles()) return "the operating system does not permit tiles";
  return find_difference(tiles, trusted);
}

void add_amx(Levels& levels) {
  const auto* tiles = avx512amx_kernels();
  const auto* trusted = avx512vnni_kernels();
  if (tiles == nullptr || trusted == nullptr || !has_avx512_bf16() || !has_amx()) return;
  const std::string obstacle = find_obstacle(*tiles, *trusted);
  if (!obstacle.empty()) {
    levels.rejected = std::string(tiles->name) + ": " + obstacle;
    return;
  }
  const bool last = is_faster(*tiles, *levels.tables.back());
  levels.tables.insert(levels.tables.end() - (last ? 0 : 1), tiles);
}

void add_processor(Levels& levels) {
  __builtin_cpu_init();
  levels.add(avx2_kernels(), has_avx2());
  levels.add(avx2vnni_kernels(), has_avx2() && has_avx_vnni());
  levels.add(avx512_kernels(), has_avx512());
  const bool bf16_last = has_avx512_bf16() && avx512bf16_is_fast();
  if (!bf16_last) levels.add(avx512bf16_kernels(), has_avx512_bf16());
  levels.add(avx512vnni_kernels(), has_avx512_vnni());
  if (bf16_last) levels.add(avx512bf16_kernels(), true);
  add_amx(levels);
}
#elif defined(__aarch64__)
constexpr unsigned long kHasI8mm = 1ul << 13;  // HWCAP2_I8MM, which old headers lack
constexpr unsigned long kHasBf16 = 1ul << 14;  // HWCAP2_BF16

void add_processor(Levels& levels) {
  const bool dot = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  const bool i8mm = dot && (getauxval(AT_HWCAP2) & kHasI8mm) != 0;
  const bool bf16 = i8mm && (getauxval(AT_HWCAP2) & kHasBf16) != 0;
  levels.add(neon_kernels(), true);
  levels.add(neondot_kernels(), dot);
  const bool bf16_last = bf16 && neonbf16_is_fast();
  if (!bf16_last) levels.add(neonbf16_kernels(), bf16);
  levels.add(neoni8mm_kernels(), i8mm);
  if (bf16_last) levels.add(neonbf16_kernels(), true);
}
#else
void add_processor(Levels&) {}
#endif

Levels find_levels() {
  Levels levels{{scalar_kernels()}, ""};
  add_processor(levels);
  return levels;
}

const Levels& levels() {
  static const Levels found = find_levels();
  return found;
}

const KernelTable<float>& find_level(const std::string& subject, const std::string& name) {
  for (const auto* table : levels().tables) {
    if (name == table->name) return *table;
  }
  throw InvalidArgument(subject + " '" + name + "' is not available, expected one of: " +
                        available_levels());
}

std::atomic<const KernelTable<float>*> selected_kernels{nullptr};

}  // namespace

const KernelTable<float>& active_kernels() {
  const auto* table = selected_kernels.load();
  if (table == nullptr) {
    const char* name = std::getenv("STREAMSEG_CPU_LEVEL");
    const bool named = name != nullptr && *name != '\0';
    table = named ? &find_level("STREAMSEG_CPU_LEVEL: instruction set", name) : levels().tables.back();
    selected_kernels.store(table);
  }
  return *table;
}

void select_level(const std::string& name) {
  selected_kernels.store(name.empty() ? levels().tables.back() : &find_level("instruction set", name));
}

std::string available_levels() {
  std::string names;
  for (const auto* table : levels().tables) {
    names += (names.empty() ? "" : ",") + std::string(table->name);
  }
  return names;
}

std::string rejected_level() { return levels().rejected; }

}  // namespace streamseg
