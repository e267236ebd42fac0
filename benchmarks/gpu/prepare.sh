#!/usr/bin/env bash
# Bring together what run.sh needs on a machine with a GPU and no network, and print the commands to
# give there. Everything lies in folders that git ignores; carry them along with the checkout.
#   TensorRT's headers; wheels (for Python 3.12) of ONNX Runtime GPU, cuda-bindings, av, OpenCV and
#   transformers; the source of mamba_ssm, a peer; with --pycuda that of PyCUDA; bundles of every family.
set -euo pipefail
cd "$(dirname "$0")/../.."
make -s tensorrt-headers
python=.venv/bin/python
mkdir -p .whl
fetch() { "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .whl "$@"; }
version() { "$python" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1"; }
fetch "transformers==$(version transformers)" "av==$(version av)" \
  "opencv-python-headless==$(version opencv-python-headless)" "cuda-bindings>=13,<14"
# ONNX Runtime GPU is 256 MB: in pieces, for machines that take only so much at a time.
rm -rf .whl_onnxruntime && mkdir -p .whl_onnxruntime
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 -d .whl_onnxruntime onnxruntime-gpu
benchmarks/gpu/pieces.sh split .whl_onnxruntime/*.whl
# Its setup asks for torch, and for nothing to be built here.
MAMBA_SKIP_CUDA_BUILD=TRUE "$python" -m pip download -q --no-deps --no-binary :all: \
  --no-build-isolation -d .whl "mamba-ssm==2.3.2.post1"
if [[ ${1:-} == --pycuda ]]; then
  "$python" -m pip download -q --no-deps --no-binary :all: --no-build-isolation -d .whl pycuda
fi
"$python" benchmarks/gpu/make_bundles.py build/gpu_bundles
du -sh .whl .whl_onnxruntime build/tensorrt_headers build/gpu_bundles
commit=$(git rev-parse --short HEAD)
step=0
call() { # carried paths, command, remark
  step=$((step + 1))
  echo "  $step. carry: $1"
  echo "     command: $2${3:+   # $3}"
}
echo "Calls, one after the other on one machine, which must stay warm between them; eight minutes of device time in all:"
for piece in .whl_onnxruntime/*.part*; do call "$piece" true; done
carried=".whl build/tensorrt_headers build/gpu_bundles $(echo .whl_onnxruntime/*.sha256)"
call "$carried" "COMMIT=$commit benchmarks/gpu/run.sh first" "build, kernels, plugins, backend=\"cuda\", times"
call "$carried" "COMMIT=$commit benchmarks/gpu/run.sh second" "whole frame, peers, sanitizer, training step, PyCUDA"
echo "The last two can be one: COMMIT=$commit benchmarks/gpu/run.sh. Most valuable parts come first; each writes its own JSON."
