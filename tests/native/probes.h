// What tests and benchmarks ask of the kernels' insides; no part of the shipped library.
#pragma once

#include <cstdint>

#define STREAMSEG_PROBE extern "C" __attribute__((visibility("default")))

// out[i] = e^x[i] or 2^x[i], by the exponential of an instruction set. 0, or 1 for an unknown level.
STREAMSEG_PROBE int probe_exp(const char* level, const float* x, int64_t count, int base2,
                              float* out);

// Milliseconds of the arithmetic of `numbers` states alone, from registers, one thread.
// kind 0: exponentials; 1: products and sums; 2: both, as the scan does them. Below 0: unknown level.
STREAMSEG_PROBE double probe_floor(const char* level, int64_t numbers, int kind);

// The operator table, a line for every attribute, operand, index and limit.
STREAMSEG_PROBE const char* probe_operators();
