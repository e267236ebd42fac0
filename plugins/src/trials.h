// Products of one instruction set beside those of another.
#pragma once

#include <string>

#include "problem.h"

namespace streamseg {

// What differs from a table that is trusted, in a few products of generated numbers; "" if nothing:
// integers to the bit, bfloat16 numbers by no more than the roundings of their sums.
std::string find_difference(const KernelTable<float>& table, const KernelTable<float>& trusted);

// Whether its products of integers and of bfloat16 numbers both take less time.
bool is_faster(const KernelTable<float>& table, const KernelTable<float>& other);

}  // namespace streamseg
