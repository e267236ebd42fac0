#!/usr/bin/env bash
# Build PyCUDA from the files of prepare.sh --pycuda, and run the sample: python, output folder.
set -euo pipefail
python=$1 out=$2
shopt -s nullglob
sources=(.whl/pycuda-*.tar.gz)
if ! "$python" -c "import pycuda" 2> /dev/null; then
  ((${#sources[@]})) || { echo "no source of PyCUDA in .whl; bring it with: prepare.sh --pycuda"; exit 1; }
  CUDA_ROOT=/usr/local/cuda "$python" -m pip install -q --no-index --no-deps --no-build-isolation \
    --target build/gpu_site "${sources[0]}"
fi
"$python" samples/pycuda_stream.py build/gpu_bundles/street-fp16 --source "synthetic:street?size=256x512" \
  --frames 20 --backend cuda | tee "$out/pycuda.txt"
