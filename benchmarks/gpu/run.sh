#!/usr/bin/env bash
# Build, check and time the GPU path on this machine within eight minutes. Each part writes its JSON
# to $OUT (or build/gpu) when it finishes. Needs nvcc, CMake and a python3 with torch; prepare.sh
# lists what a machine without network needs.
#   run.sh            everything
#   run.sh build      build only, which can run while files are transferred
#   run.sh first      build, kernels, plugins, backend="cuda" against the CPU and its times
#   run.sh second     whole frame, peers, compute-sanitizer, a training step in float16, PyCUDA
#   run.sh --twin     a rehearsal on the CPU of everything except the GPU itself
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mkdir -p "${OUT:-build/gpu}" && cd "${OUT:-build/gpu}" && pwd)
what=${1:-all}
[[ $what =~ ^(all|build|first|second|--twin)$ ]] || { echo "usage: run.sh [build|first|second|--twin]" >&2; exit 2; }
export PATH=$PATH:/usr/local/cuda/bin
export COMMIT=${COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}
deadline=$((SECONDS + ${LIMIT:-480}))
failed=()
part() { # name, seconds at most, command...: a part that fails must not cost the others' results
  local name=$1 most=$2 left=$((deadline - SECONDS))
  shift 2
  if ((left < 10)); then
    echo "== $name: no time left"
    failed+=("$name (no time)")
    return
  fi
  echo "== $name ($((SECONDS)) s)"
  timeout "$((most < left ? most : left))" "$@" || failed+=("$name")
}

# The files packed by prepare.sh, from pieces that were transferred one by one.
carry=build/gpu_carry
if [[ $what != build ]] && compgen -G "$carry/carry.tar.part*" > /dev/null; then
  benchmarks/gpu/pieces.sh join "$carry"
  tar -xf "$carry/carry.tar"
  rm "$carry"/carry.tar*
fi

# The interpreter with torch, with this checkout instead of an installed package.
python=${PYTHON:-python3}
[[ -x .venv/bin/python ]] && python=$PWD/.venv/bin/python
if [[ $what != --twin ]]; then
  command -v nvidia-smi > /dev/null || { echo "run.sh: no GPU here; try: run.sh --twin" >&2; exit 2; }
  if [[ ! -x .venv/bin/python ]]; then
    rm -rf build/gpu_path && mkdir -p build/gpu_path/streamseg
    ln -s "$PWD"/src/streamseg/* build/gpu_path/streamseg/
    if [[ ! -d build/gpu_site ]] && compgen -G ".whl/*.whl" > /dev/null; then
      "$python" -m pip install -q --no-index --no-deps --no-compile --target build/gpu_site .whl/*.whl
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

mkdir -p build
exec 9> build/gpu_build.lock
flock 9  # a build that still runs beside the transfers
: > "$out/build.log"
cmake -S . -B build/native >> "$out/build.log"
cmake --build build/native --parallel >> "$out/build.log"
echo "== operators for the CPU are built ($((SECONDS)) s)"
export STREAMSEG_OPS=$PWD/build/native/libstreamseg_ops.so

if [[ $what == --twin ]]; then
  build build/cuda_twin -DSTREAMSEG_CUDA_TWIN=ON
  build/cuda_twin/kernel_bench --parity | tee "$out/kernels.json"
  OMP_NUM_THREADS=1 "$python" benchmarks/gpu/measure.py --out "$out/torch.json" \
    --twin build/cuda_twin/libstreamseg_cuda_twin.so
  OMP_NUM_THREADS=1 "$python" benchmarks/gpu/frame_peers.py --out "$out/frame_peers.json" \
    --bundles "${BUNDLES:-build/gpu_bundles}" --rehearse
  if [[ -d ${BUNDLES:-build/gpu_bundles} ]]; then
    OMP_NUM_THREADS=1 "$python" benchmarks/gpu/cuda_backend.py "${BUNDLES:-build/gpu_bundles}" \
      --out "$out/onnxruntime_cuda.json" --rehearse
  fi
  exit
fi

# setup.py puts the libraries and their records where the package finds them.
build build/cuda
build build/cuda_plain -DSTREAMSEG_PLAIN_EXP2=ON &
STREAMSEG_NATIVE=1 "$python" setup.py -q build_native --inplace >> "$out/build.log" 2>&1
STREAMSEG_CUDA=1 "$python" setup.py -q build_cuda --inplace >> "$out/build.log" 2>&1
wait
flock -u 9
echo "== everything is built ($((SECONDS)) s)"
if grep -E "[1-9][0-9]* bytes spill" "$out/build.log"; then failed+=("spills"); fi
if [[ $what == build ]]; then exit ${#failed[@]}; fi

if [[ $what != second ]]; then
  part "kernel parity and times" 40 bash -c "set -o pipefail; build/cuda/kernel_bench | tee '$out/kernels.json'"
  if [[ -d build/gpu_bundles ]] && "$python" -c "import onnxruntime" 2> /dev/null; then
    part 'backend="cuda" against the CPU, and its times' 220 \
      "$python" benchmarks/gpu/cuda_backend.py build/gpu_bundles --out "$out/onnxruntime_cuda.json"
  else
    echo "   no bundles in build/gpu_bundles, or no ONNX Runtime: no backend=\"cuda\" (see prepare.sh)"
    failed+=('backend="cuda"')
  fi
  if [[ -d build/gpu_bundles/street-fp16 ]]; then
    part "fleets of 1, 4 and 16 streams" 90 "$python" benchmarks/gpu/batches.py \
      build/gpu_bundles/street-fp16 build/gpu_bundles/b1-fp16 --out "$out/batches.json"
  fi
  if [[ -x build/cuda/plugin_host ]]; then
    export STREAMSEG_CUDA_BUILD=$PWD/build/cuda
    part "plugin enqueue" 90 bash -c "set -o pipefail; '$python' -m pytest -m gpu \
      tests/plugins/test_tensorrt_plugins.py 2>&1 | tee '$out/plugins.txt'"
  else
    echo "   no TensorRT headers in build/tensorrt_headers: no plugin enqueue (see prepare.sh)"
    failed+=("plugin enqueue")
  fi
fi
if [[ $what != first ]]; then
  part "operators, frame, peers" 150 "$python" benchmarks/gpu/measure.py --out "$out/torch.json"
  # The kernel at the geometry that is timed: the last launches, not those of the parity run.
  if command -v ncu > /dev/null; then
    part "profile" 40 bash -c "ncu --clock-control none --kernel-name regex:scan --launch-skip 200 \
      --launch-count 2 --section SpeedOfLight --section Occupancy build/cuda/kernel_bench > '$out/ncu.txt' 2>&1"
  fi
  # The same without the polynomial for decays near 1, to show its cost and its gain.
  part "plain exponential" 20 bash -c "build/cuda_plain/kernel_bench > '$out/kernels_plain_exp2.json' \
    || echo '   the plain exponential misses a bar'"
  if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck initcheck; do
      part "compute-sanitizer $tool" 40 bash -c "set -o pipefail; compute-sanitizer --tool $tool \
        --error-exitcode 1 build/cuda/kernel_bench --parity 2>&1 | tail -5 | tee -a '$out/sanitizer.txt'"
    done
  fi
  part "training step in float16" 40 "$python" benchmarks/gpu/training_step.py --out "$out/training.json"
  part "peers of a frame" 140 "$python" benchmarks/gpu/frame_peers.py --out "$out/frame_peers.json"
  part "PyCUDA" 100 benchmarks/gpu/pycuda.sh "$python" "$out"
fi
echo "== $((SECONDS)) s in all"
if [[ ${#failed[@]} -gt 0 ]]; then
  printf 'run.sh: failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
