"""kill -9 at random moments of every command that writes, for ``benchmarks/reliability.py``."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamseg.errors import StreamsegError
from streamseg.runtime.backends.engine_files import read_record
from streamseg.runtime.bundle.bundle import digest, read_bundle

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = (sys.executable, "-m", "streamseg.cli.main")
RTX = Path(os.environ.get("STREAMSEG_RTX", ROOT / "build/rtx"))
BUILD = """
import sys
from pathlib import Path
from streamseg.export.engine_build import build_engines
from streamseg.export.engine_options import EngineOptions
from streamseg.runtime.bundle.bundle import read_bundle
options = EngineOptions(flavour="tensorrt_rtx", capabilities=("8.6",), native=False)
build_engines(read_bundle(sys.argv[1]), out=Path(sys.argv[2]), options=options)
"""


@dataclass
class Row:
    """One line of the table.

    Attributes:
        fault: what was done.
        tries: how often.
        lost: results that were there before, or should have come, and are missing.
        wrong: results that differ from those of an undisturbed run.
        tracebacks: in everything that was printed.
        recovery: seconds until things went on, the longest; None where there is nothing to resume.
        note: what one should know.
    """

    fault: str
    tries: int = 0
    lost: int = 0
    wrong: int = 0
    tracebacks: int = 0
    recovery: float | None = None
    note: str = ""

    def recovered(self, seconds: float) -> None:
        """Count a recovery."""
        self.recovery = max(self.recovery or 0.0, seconds)


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    Attributes:
        name: of the command.
        command: for the folder.
        resumed: the command that resumes after a kill.
        kept: the results that must be complete; maps their names to their contents.
        sound: raises if the folder contains something incomplete after a kill.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    resumed: Callable[[Path], Sequence[str]]
    kept: Callable[[Path], dict[str, bytes]]
    sound: Callable[[Path], object] = lambda _folder: None


def run(command: Sequence[str], **options: str) -> tuple[int, str]:
    """Run to the end; exit code and what was printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def prepare(command: Sequence[str]) -> None:
    """Make the files that the trials need."""
    code, text = run(command)
    if code:
        raise SystemExit(f"{' '.join(command)} fails: {text[-2000:]}")


def kill_at(command: Sequence[str], seconds: float) -> tuple[bool, str]:
    """Run and kill after so many seconds, with all its children.

    Returns:
        Whether it was killed before it finished; what was printed.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=seconds)
        return False, text
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
    return process.returncode == -signal.SIGKILL, text


def kill_job(job: Job, folder: Path, tries: int, rng: random.Random) -> Row:
    """Kill a command at moments spread over its whole time, let it resume, and compare."""
    named = "an engine build (TensorRT-RTX)" if job.name == "build" else f"`streamseg {job.name}`"
    row = Row(f"`kill -9` of {named}", tries)
    folder.mkdir()
    began = time.monotonic()
    code, text = run(job.command(folder / "whole"))
    length = whole = time.monotonic() - began
    if code:
        raise SystemExit(f"{job.name} fails undisturbed: {text[-2000:]}")
    wanted = job.kept(folder / "whole")
    if not wanted:
        raise SystemExit(f"{job.name} writes nothing: the trial says nothing")
    work = folder / "killed"
    kills = 0
    while kills < tries:
        shutil.rmtree(work, ignore_errors=True)
        if job.sound is not _nothing:
            shutil.copytree(folder / "whole", work)  # something to lose
        seconds = rng.uniform(0.05, 1) * length
        killed, text = kill_at(job.command(work), seconds)
        if not killed:  # already finished: it takes less time now
            length = min(length, seconds)
            continue
        kills += 1
        try:
            job.sound(work)
        except (StreamsegError, AssertionError, OSError):
            row.lost += 1
        began = time.monotonic()
        code, more = run(job.resumed(work))
        row.recovered(time.monotonic() - began)
        row.tracebacks += (text + more).count("Traceback")
        got = job.kept(work) if code == 0 else {}
        row.lost += len(wanted.keys() - got.keys())
        row.wrong += sum(got[name] != wanted[name] for name in wanted.keys() & got.keys())
        row.wrong += len([entry for entry in _drafts(work) if code == 0])
    row.note = f"undisturbed {whole:.1f} s; recovery is the time of the command that resumes"
    return row


def _nothing(_folder: Path) -> object:
    return None


def _drafts(folder: Path) -> list[Path]:
    return [entry for entry in folder.rglob(".*") if entry.name.endswith((".draft", ".old"))]


def _files(pattern: str) -> Callable[[Path], dict[str, bytes]]:
    return lambda folder: {
        str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob(pattern))
    }


def _engine_names(folder: Path) -> dict[str, bytes]:
    # Two builds of an engine differ in their bytes.
    return {engine.name: b"" for engine in (folder / "engines").glob("*.engine")}


def _engines_fit(folder: Path) -> None:
    for engine in (folder / "engines").glob("*.engine"):
        assert read_record(engine).engine_sha256 == digest(engine.read_bytes())


def make_jobs(work: Path, bundle: Path) -> list[Job]:
    """The commands; ``build`` only where TensorRT-RTX is (make tensorrt-rtx)."""
    scene = "synthetic:clean?size=48x64&fps=25&frames=600"
    videos = work / "videos"
    videos.mkdir(exist_ok=True)
    for seed in range(6):
        source = f"synthetic:hard?size=48x64&frames=60&seed={seed}"
        prepare([*PROGRAM, "run", str(bundle), source, "--out", f"{videos}/{seed}.mp4"])
    weights = "samples/street/street.safetensors"
    street = work / "street"
    prepare([*PROGRAM, "export", weights, "--size", "64x128", "-o", str(street)])
    train = shlex.split(
        "train --encoder mit_b0 --embed-dim 16 --layers 2 --expand 1 --states 4 --offsets=-2,-1,0 "
        "--set window=4 --set shift=2 --batch 2 --crop 32x64 --lr 1e-3 --warmup 2 --device cpu "
        "--threads 1 --save-every 2 --steps 12 --license Apache-2.0 --dataset"
    )
    clips = "synthetic:street?size=64x128&scenes=1&frames=4"

    def run_it(folder: Path) -> list[str]:
        state, labels = str(folder / "state"), str(folder / "labels")
        places = ["--labels", labels, "--snapshot", state, "--snapshot-every", "20"]
        folder.mkdir(exist_ok=True)
        given = [*places, "--resume", state, "--threads", "1"]
        return [*PROGRAM, "run", str(bundle), scene, *given]

    def batch_it(folder: Path) -> list[str]:
        given = [f"{videos}/*.mp4", "-o", str(folder), "--workers", "1"]
        return [*PROGRAM, "batch", str(bundle), *given]

    def train_it(folder: Path) -> list[str]:
        begun = (folder / "config.json").exists()
        place = ["--resume" if begun else "--out", str(folder)]
        return [*PROGRAM, *train, "synthetic:easy?size=32x64&scenes=2&frames=5", *place]

    def export_it(folder: Path) -> list[str]:
        return [*PROGRAM, "export", weights, "--size", "64x128", "-o", str(folder / "b")]

    def calibrate_it(folder: Path) -> list[str]:
        given = ["--dataset", clips, "--clips", "1", "--clip-frames", "2", "--no-report"]
        return [*PROGRAM, "calibrate", str(street), *given, "-o", str(folder / "b")]

    def build_it(folder: Path) -> list[str]:
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        program = ["env", f"LD_LIBRARY_PATH={RTX / 'link'}", f"PYTHONPATH={path}"]
        return [*program, f"{RTX}/bin/python", "-c", BUILD, str(bundle), str(folder / "engines")]

    def whole_bundle(folder: Path) -> object:
        return read_bundle(folder / "b")

    jobs = [
        Job("run", run_it, run_it, _files("labels/*.png"), _nothing),
        Job("batch", batch_it, batch_it, _files("**/*.png"), _nothing),
        Job("train", train_it, train_it, _files("weights.safetensors"), _nothing),
        Job("export", export_it, export_it, _files("b/*.onnx"), whole_bundle),
        Job("calibrate", calibrate_it, calibrate_it, _files("b/*.onnx"), whole_bundle),
    ]
    if (RTX / "bin/python").exists():
        jobs.append(Job("build", build_it, build_it, _engine_names, _engines_fit))
    return jobs
