#!/usr/bin/env bash
# Collect the files that run.sh needs on a machine with a GPU and no network, in pieces that fit
# into one call with the checkout. Print the calls to run there, with their share of eight minutes.
#   prepare.sh [--pycuda]
# TensorRT's headers; wheels (for Python 3.12) of ONNX Runtime GPU, cuda-bindings, OpenCV and
# transformers, onnx and what it needs; the source of mamba_ssm, a peer; with --pycuda that of PyCUDA; bundles of every family.
#   HAVE="transformers opencv-python-headless"   packages that the machine already has
#   CARRY=64                                     MiB per call, including the checkout
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python} carry=${CARRY:-64} folder=build/gpu_carry
[[ -x $(command -v "$python") ]] || { echo "prepare.sh: no $python; run make setup, or set PYTHON" >&2; exit 2; }
[[ -d build/tensorrt_headers ]] || make -s tensorrt-headers
rm -rf .whl "$folder" && mkdir -p .whl "$folder"
fetch() { "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .whl "$@"; }
version() { "$python" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1"; }
for name in transformers opencv-python-headless cuda-bindings onnxruntime-gpu onnx protobuf ml-dtypes; do
  [[ " ${HAVE:-} " == *" $name "* ]] && continue
  case $name in
    cuda-bindings) fetch "cuda-bindings>=13,<14" ;;
    onnxruntime-gpu) fetch onnxruntime-gpu ;;
    *) fetch "$name==$(version $name)" ;;
  esac
done
# Its setup requires torch, but nothing is built here.
MAMBA_SKIP_CUDA_BUILD=TRUE "$python" -m pip download -q --no-deps --no-binary :all: \
  --no-build-isolation -d .whl "mamba-ssm==2.3.2.post1"
if [[ ${1:-} == --pycuda ]]; then
  "$python" -m pip download -q --no-deps --no-binary :all: --no-build-isolation -d .whl pycuda
fi
"$python" benchmarks/gpu/make_bundles.py build/gpu_bundles
du -shL .whl build/tensorrt_headers build/gpu_bundles

tar -chf "$folder/carry.tar" .whl build/gpu_bundles
checkout=$(git ls-files -z | xargs -0 stat -c %s | awk '{sum += $1} END {print sum}')
piece=$(((carry << 20) - checkout - (4 << 20)))
((piece >= 8 << 20)) || { echo "prepare.sh: the checkout leaves $piece of $carry MiB for a piece" >&2; exit 2; }
benchmarks/gpu/pieces.sh split "$folder/carry.tar" "$piece"
pieces=("$folder"/carry.tar.part*)
commit=$(git rev-parse --short HEAD)
# About ten seconds for the transfer of a piece; the remaining time is for the two runs.
left=$((480 - 10 * ${#pieces[@]}))
first=$((left * 55 / 100)) second=$((left - left * 55 / 100))
echo "Calls, one right after the other on one machine; each carries at most $carry MiB, the checkout's $((checkout >> 20)) included."
echo "480 s of device time = ${#pieces[@]} pieces x 10 s + $first s + $second s:"
step=0
call() { # carried paths, command, remark
  step=$((step + 1))
  echo "  $step. carry: $1"
  echo "     command: $2${3:+   # $3}"
}
call "build/tensorrt_headers ${pieces[0]}" "OUT=build/gpu setsid benchmarks/gpu/run.sh build < /dev/null &> /tmp/build.log &" \
  "builds while the other pieces are transferred"
for part in "${pieces[@]:1:${#pieces[@]}-2}"; do call "$part" true; done
call "${pieces[-1]} $folder/carry.tar.sha256" "COMMIT=$commit LIMIT=$first benchmarks/gpu/run.sh first" \
  "build, kernels, backend=\"cuda\" and its times, plugins"
call nothing "COMMIT=$commit LIMIT=$second benchmarks/gpu/run.sh second" \
  "whole frame, peers, profile, sanitizer, training step, PyCUDA"
echo "Most valuable parts come first; each writes its own JSON into \$OUT, at most eight files a call."
