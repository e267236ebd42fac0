#!/usr/bin/env bash
# Build, check and time the CUDA operators on this machine's GPU within ten minutes; JSON goes to $OUT
# (or build/gpu). Needs nvcc, CMake and a python3 with torch; prepare.sh says what to bring along to a
# machine without network. `run.sh --twin` rehearses all but the GPU itself on the CPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mkdir -p "${OUT:-build/gpu}" && cd "${OUT:-build/gpu}" && pwd)
twin=${1:-}
[[ -z $twin || $twin == --twin ]] || { echo "usage: run.sh [--twin]" >&2; exit 2; }
export PATH=$PATH:/usr/local/cuda/bin
export COMMIT=${COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}
failed=()
part() { # name, command...: a part that fails must not cost the others' results
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

# The interpreter with torch, with this checkout in the place of an installed package.
python=python3
[[ -x .venv/bin/python ]] && python=$PWD/.venv/bin/python
if [[ -z $twin ]]; then
  command -v nvidia-smi > /dev/null || { echo "run.sh: no GPU here; try: run.sh --twin" >&2; exit 2; }
  if [[ ! -x .venv/bin/python ]]; then
    rm -rf build/gpu_path && mkdir -p build/gpu_path/streamseg
    ln -s "$PWD"/src/streamseg/* build/gpu_path/streamseg/
    ln -s "$PWD"/{export,runtime,plugins,calibration,training} build/gpu_path/streamseg/
    wheels=(.whl/*.whl)
    if [[ -e ${wheels[0]} ]]; then
      python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target build/gpu_site .whl/*.whl
    fi
    export PYTHONPATH=$PWD/build/gpu_path:$PWD/build/gpu_site
  fi
fi

build() { # folder, CMake options
  local folder=$1
  shift
  cmake -S plugins/cuda -B "$folder" -DSTREAMSEG_CUDA_TESTS=ON \
    "-DSTREAMSEG_TENSORRT_INCLUDE=$PWD/build/tensorrt_headers" "$@" >> "$out/build.log"
  cmake --build "$folder" --parallel 2>&1 | tee -a "$out/build.log" \
    | { grep -E "error|[1-9][0-9]* bytes spill" || true; }
}

cmake -S . -B build/native > "$out/build.log"
cmake --build build/native --parallel >> "$out/build.log"
export STREAMSEG_OPS=$PWD/build/native/libstreamseg_ops.so

if [[ -n $twin ]]; then
  build build/cuda_twin -DSTREAMSEG_CUDA_TWIN=ON
  build/cuda_twin/kernel_bench --parity | tee "$out/kernels.json"
  OMP_NUM_THREADS=1 "$python" benchmarks/gpu/measure.py --out "$out/torch.json" \
    --twin build/cuda_twin/libstreamseg_cuda_twin.so
  exit
fi

# setup.py puts the libraries, with their records, where the package looks for them.
build build/cuda
build build/cuda_plain -DSTREAMSEG_PLAIN_EXP2=ON &
STREAMSEG_NATIVE=1 "$python" setup.py -q build_native --inplace >> "$out/build.log" 2>&1
STREAMSEG_CUDA=1 "$python" setup.py -q build_cuda --inplace >> "$out/build.log" 2>&1
wait
if grep -E "[1-9][0-9]* bytes spill" "$out/build.log"; then failed+=("spills"); fi

part "kernel parity and times" bash -c "set -o pipefail; build/cuda/kernel_bench | tee '$out/kernels.json'"
# The same without the polynomial for decays near 1: what it costs, and what it saves.
build/cuda_plain/kernel_bench > "$out/kernels_plain_exp2.json" || echo "   the plain exponential misses a bar"
if [[ -x build/cuda/plugin_host ]]; then
  export STREAMSEG_CUDA_BUILD=$PWD/build/cuda
  part "plugin enqueue" bash -c "set -o pipefail; '$python' -m pytest -m gpu \
    tests/plugins/test_tensorrt_plugins.py 2>&1 | tee '$out/plugins.txt'"
else
  echo "   no TensorRT headers in build/tensorrt_headers: no plugin enqueue (see prepare.sh)"
  failed+=("plugin enqueue")
fi
part "operators, frame, peers" "$python" benchmarks/gpu/measure.py --out "$out/torch.json"
if command -v ncu > /dev/null; then
  ncu --clock-control none --kernel-name regex:scan --launch-skip 8 --launch-count 2 \
    --section SpeedOfLight build/cuda/kernel_bench > "$out/ncu.txt" 2>&1 || echo "   ncu cannot measure here"
fi
if [[ ${#failed[@]} -gt 0 ]]; then
  printf 'run.sh: failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
