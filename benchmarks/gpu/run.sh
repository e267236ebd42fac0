#!/usr/bin/env bash
# Build, check and time the CUDA operators on this machine's GPU; JSON goes to $OUT (or build/gpu).
# `run.sh --twin` does the same up to parity on the CPU, so that all but the GPU itself is tried.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-build/gpu}
mkdir -p "$out"
export PATH=$PATH:/usr/local/cuda/bin

cmake -S . -B build/native > "$out/build.log"
cmake --build build/native --parallel >> "$out/build.log"
export STREAMSEG_OPS=$PWD/build/native/libstreamseg_ops.so

folder=build/cuda_gpu
options=(-DSTREAMSEG_CUDA_TESTS=ON "-DSTREAMSEG_TENSORRT_INCLUDE=$PWD/build/tensorrt_headers")
if [[ ${1:-} == --twin ]]; then
  folder=build/cuda_twin
  options+=(-DSTREAMSEG_CUDA_TWIN=ON)
else
  command -v nvidia-smi > /dev/null || { echo "run.sh: no GPU here; try: run.sh --twin"; exit 2; }
fi
cmake -S plugins/cuda -B "$folder" "${options[@]}" >> "$out/build.log"
cmake --build "$folder" --parallel 2>&1 | tee "$out/cuda_build.log" | grep -c "0 bytes spill stores, 0 bytes spill loads" || true
if grep -E "[1-9][0-9]* bytes spill" "$out/cuda_build.log"; then
  echo "run.sh: a kernel spills registers" >&2
  exit 1
fi

if [[ ${1:-} == --twin ]]; then
  "$folder/kernel_bench" --parity | tee "$out/kernels_twin.json"
  exit 0
fi
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit --format=csv \
  | tee "$out/gpu.csv"
"$folder/kernel_bench" | tee "$out/kernels.json"
if command -v ncu > /dev/null; then
  ncu --kernel-name regex:scan --launch-skip 8 --launch-count 2 --section SpeedOfLight \
    "$folder/kernel_bench" > "$out/ncu.txt" 2>&1 || echo "run.sh: ncu is not allowed here"
fi
# The TensorRT plugins' enqueue through the host program, where Python and torch are.
if [[ -x .venv/bin/python && -x $folder/plugin_host ]]; then
  .venv/bin/python -m pytest -m gpu tests/plugins/test_tensorrt_plugins.py
fi
