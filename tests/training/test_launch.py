"""The command in processes of its own: two that share a batch, and ones that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamseg.training.history import read_history
from streamseg.training.saving import RunFolder
from tests.training.small import COMMAND, assert_same_weights

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MODULE = "streamseg.cli.main"
TWO = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")

# The command, and then the threads that it leaves to a process about to end.
LISTED = """
import os
from streamseg.cli.main import run
try:
    run()
finally:
    tasks = "/proc/self/task"
    names = [open(f"{tasks}/{i}/comm").read().strip() for i in os.listdir(tasks)]
    print(os.environ["RANK"], "leaves", [name for name in names if "gloo" in name], flush=True)
"""


def start(*arguments: str, launcher: tuple[str, ...] = ("-m", MODULE)) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, "train", *COMMAND, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if any(line["step"] >= step for line in read_history(folder / "log.jsonl")):
            return
        time.sleep(0.01)
    pytest.fail(f"step {step} was not seen: {process.communicate()[1]}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of 40 steps that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert "after 40 steps" in finish(start("--steps", "40", "-o", str(folder)))
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_command_resumes_to_the_same_weights(whole, tmp_path, number):
    folder = tmp_path / "run"
    process = start("--steps", "40", "-o", str(folder))
    wait_for_step(folder, random.Random(int(number)).randrange(3, 12), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + number
        assert f"stopped by {number.name} after step" in error
    reached = RunFolder(folder).load()["step"]
    assert 0 < reached < 40
    finish(start("--steps", "40", "--resume", str(folder)))
    assert_same_weights(whole / "weights.safetensors", folder / "weights.safetensors")


def test_two_processes_give_the_loss_of_one(tmp_path):
    steps = ("--steps", "4", "--drop-path", "0", "--batch", "4", "--lr", "1e-4")
    finish(start(*steps, "-o", str(tmp_path / "one")))
    finish(start(*steps, "-o", str(tmp_path / "two"), launcher=(*TWO, "-m", MODULE)))
    one, two = (read_history(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in two] == [1, 2, 3, 4]
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "temporal", "auxiliary"):
            assert a[name] == pytest.approx(b[name], rel=2e-4), (a["step"], name)
    assert (tmp_path / "two" / "weights.safetensors").is_file()


def test_no_gloo_thread_outlives_the_run(tmp_path):
    script = tmp_path / "listed.py"
    script.write_text(LISTED)
    launcher = (*TWO, str(script))
    out = finish(start("--steps", "1", "-o", str(tmp_path / "run"), launcher=launcher))
    assert "0 leaves []" in out
    assert "1 leaves []" in out
