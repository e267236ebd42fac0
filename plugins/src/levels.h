// The instruction sets of this processor and the selection of one.
#pragma once

#include <string>

#include "problem.h"

namespace streamseg {

// The instruction set in use: the fastest that this processor has, or the one that `select_level` or
// STREAMSEG_CPU_LEVEL names ("scalar", "avx2", "avx512", "neon").
const KernelTable<float>& active_kernels();
void select_level(const std::string& name);  // "" selects the fastest
std::string available_levels();              // separated by commas, fastest last

// An instruction set that the processor has but that is not used, as "name: reason"; "" if there is none.
std::string rejected_level();

}  // namespace streamseg
