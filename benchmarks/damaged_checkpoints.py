"""Thousands of damaged weight files: no code runs, every error is handled, memory is bounded.

python benchmarks/damaged_checkpoints.py      # writes benchmarks/results/checkpoints.{json,md}

Fails if a file runs code, raises anything but a one-line error, or takes memory beyond a small
multiple of its size.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from measuring import describe_machine, write_results

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.export.damaged_files import read_damaged, watch_running  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        read_damaged(200, Path(folder) / "weights", seed=0)  # importing modules runs their code
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with watch_running() as running:
            tally = read_damaged(options.files, Path(folder) / "weights", seed=options.seed)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        left = sorted(path.name for path in Path(folder).iterdir())
    if running or left != ["weights"]:
        sys.exit(f"something ran: {running[:5]}, {left}")
    result = {
        "files": options.files,
        "seed": options.seed,
        **{name: tally.outcomes[name] for name in ("read", "refused")},
        "events that run code": len(running),
        "most memory of one file, MB": round(tally.largest_peak / 1e6, 2),
        "growth of resident memory, MB": round((after - before) / 1e3, 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    rows = "".join(f"| {name} | {value:,} |\n" for name, value in result.items())
    machine = describe_machine(1)
    head = f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit']}; "
    head += "`python benchmarks/damaged_checkpoints.py`\n\n| | |\n|---|---|\n"
    write_results("checkpoints", {"machine": machine, **result}, head + rows)


if __name__ == "__main__":
    main()
