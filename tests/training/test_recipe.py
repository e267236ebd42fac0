"""The sample's recipe as it stands: fewer steps, half the size, two processes in one run only."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from streamseg.training.history import read_history
from tests.conftest import ROOT

RUNS = ("frames", "doubled", "whole", "street", "baseline", "longer")
RECORDS = ("street", "reset", "baseline", "longer")

# Stands before the real commands on PATH.
SHORTER = """#!{python}
import os, re, sys
given, name = sys.argv[1:], os.path.basename(sys.argv[0])
less = {{"--steps": "3", "--stop-at": "2", "--warmup": "1"}}
half = lambda size: "x".join(str(int(side) // 2) for side in size[0].split("x"))
for at, value in enumerate(given):
    given[at] = value = re.sub(r"[0-9]+x[0-9]+", half, value)
    if value.startswith("synthetic:"):
        given[at] = re.sub("scenes=.*", "scenes=1&frames=9", value)
    if value in less:
        given[at + 1] = less[value]
if name == "torchrun" and "tv3s" not in given:
    given, name = given[given.index("train") :], "streamseg"
modules = {{"streamseg": "streamseg.cli.main", "torchrun": "torch.distributed.run"}}
os.execv(sys.executable, [sys.executable, "-m", modules[name], *given])
"""


def test_sample_recipe_runs_from_end_to_end(tmp_path):
    for name in ("streamseg", "torchrun"):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(SHORTER.format(python=sys.executable))
        command.chmod(0o755)
    out = tmp_path / "out"
    done = subprocess.run(
        ["bash", "samples/street/train.sh", str(out)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = {name: read_history(out / name / "log.jsonl")[-1]["step"] for name in RUNS}
    assert steps == {name: 2 if name in ("doubled", "whole") else 3 for name in RUNS}
    for name in RECORDS:
        record = json.loads((out / f"{name}.json").read_text())
        assert record["frames"] == 9
        assert record["stateless"] == (name == "reset")
