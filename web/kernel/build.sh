#!/usr/bin/env bash
# Compile the kernels to WebAssembly: web/kernel/build.sh OUTPUT. Needs clang, lld and wasi-libc.
set -euo pipefail
output=${1:?usage: web/kernel/build.sh OUTPUT}
output=$(realpath -m "$output")
cd "$(dirname "$0")/../.."
clang=${CLANG:-$(command -v clang-14 || command -v clang)}
"$clang" --target=wasm32-wasi --sysroot=/usr -O3 -msimd128 -std=c++17 -fno-exceptions -fno-rtti -ffp-contract=off \
  -mexec-model=reactor -Wall -Wextra -Wl,--strip-all -Wl,-z,stack-size=65536 \
  -I plugins/src web/kernel/kernels.cpp -o "$output"
