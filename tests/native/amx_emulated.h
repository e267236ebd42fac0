// The kernels of AMX over an emulation of its tiles.
#pragma once

#include "problem.h"

namespace streamseg {

// Null where the compiler does not know AVX-512 BF16. They need a processor that has it.
const KernelTable<float>* emulated_amx_kernels();

bool emulated_tiles_are_released();

}  // namespace streamseg
