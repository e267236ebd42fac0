#!/usr/bin/env bash
# Bring together what run.sh needs on a machine with a GPU and no network: TensorRT's headers, the
# transformers that the encoders are made of, and the source of mamba_ssm, a peer. Everything lies in
# folders that git ignores; carry them along with the checkout.
set -euo pipefail
cd "$(dirname "$0")/../.."
make -s tensorrt-headers
python=.venv/bin/python
mkdir -p .whl
version=$("$python" -c 'from importlib.metadata import version; print(version("transformers"))')
"$python" -m pip download -q --no-deps --only-binary=:all: -d .whl "transformers==$version"
# Its setup asks for torch, and for nothing to be built here.
MAMBA_SKIP_CUDA_BUILD=TRUE "$python" -m pip download -q --no-deps --no-binary :all: \
  --no-build-isolation -d .whl "mamba-ssm==2.3.2.post1"
du -sh .whl build/tensorrt_headers
echo "carry: .whl build/tensorrt_headers"
echo "run:   COMMIT=$(git rev-parse --short HEAD) benchmarks/gpu/run.sh"
