"""Peak resident memory of a large system at 1024x2048 on the CPU, without its weights.

python benchmarks/large.py                   # writes benchmarks/results/large.{json,md}
python benchmarks/large.py --bundles DIR     # keeps the bundle there and reuses it

Exporting MPVSS at that size takes about 5 GB and two minutes; the check against PyTorch, which
would take several times that, is left to the export at 480x864.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

from measuring import describe_machine, write_results
from models import peak_memory

from streamseg.export import bundles
from streamseg.export.catalogue import build_entry, measure_cost

SIZE = (1024, 2048)
LIMIT_MB = 2000


def prepare(name: str, folder: Path) -> Path:
    """The bundle, exported unless it exists."""
    path = folder / f"{name.replace('/', '-')}-large"
    if not path.exists():
        with mock.patch.object(bundles, "measure_parity", return_value={}):
            bundles.export_bundle(build_entry(name), path, size=SIZE)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="mpvss/resnet50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bundles", type=Path, help="keep the bundle here and reuse it")
    parser.add_argument("--prepare", action="store_true", help="only export")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = prepare(options.system, options.bundles or Path(scratch))
        if options.prepare:
            return
        peak = peak_memory(path, options.threads) * 1024**2 / 1e6
        files = sum(file.stat().st_size for file in path.glob("*.onnx")) / 1e6
    weights = measure_cost(options.system, SIZE).parameters * 4 / 1e6
    beyond = peak - weights
    result = {
        "machine": describe_machine(options.threads),
        "system": options.system,
        "size": SIZE,
        "peak_mb": peak,
        "weights_mb": weights,
        "graphs_mb": files,
        "beyond_weights_mb": beyond,
        "limit_mb": LIMIT_MB,
    }
    table = (
        f"{options.system} at {SIZE[0]}x{SIZE[1]}, {options.threads} threads, after a key frame "
        f"and a whole period of the schedule: peak resident {peak:.0f} MB, weights {weights:.0f} "
        f"MB (graph files with their constants {files:.0f} MB), so {beyond:.0f} MB beyond the "
        f"weights; the limit is {LIMIT_MB} MB. {result['machine']['processor']}, commit "
        f"{result['machine']['commit']}.\n"
    )
    write_results("large", result, table)
    if beyond > LIMIT_MB:
        raise SystemExit(f"{beyond:.0f} MB beyond the weights, the limit is {LIMIT_MB} MB")


if __name__ == "__main__":
    main()
