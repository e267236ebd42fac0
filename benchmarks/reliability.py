"""Faults and their effects: docs/reliability.md and benchmarks/results/reliability.json.

python benchmarks/reliability.py           # a reduced version, about ten minutes
python benchmarks/reliability.py --long    # about an hour or more; make verify-long

Fails if anything was lost or wrong, or if a traceback was printed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from kills import PROGRAM, ROOT, Row, kill_job, make_jobs, prepare, run
from measuring import describe_machine, write_json

sys.path.insert(0, str(ROOT))

import streamseg
from streamseg.errors import SourceError
from streamseg.runtime.loop.decoding import Pacing
from streamseg.runtime.loop.fleet import Fleet
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.sources import Frame, Source, SourceOptions, open_source
from tests.runtime.streams import RtspServer, missing_stream_tools

PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- made by benchmarks/reliability.py -->", "<!-- end -->"
FUZZERS = (
    *("tests/runtime/bundle/test_manifest_damage.py", "tests/runtime/bundle/test_onnx_wire.py"),
    *("tests/runtime/test_damaged_inputs.py", "tests/runtime/sources/test_damaged_media.py"),
    *("tests/serving/test_damaged_requests.py", "tests/test_redaction.py"),
)


@dataclass(frozen=True)
class Scale:
    """The size of the trials."""

    kills: int
    restarts: int
    streams: int
    bad: int
    frames: int
    fuzz: int
    soak: int
    clocks: int


SMALL = Scale(kills=1, restarts=5, streams=64, bad=6, frames=3_000, fuzz=1, soak=5_000, clocks=1)
LONG = Scale(
    kills=50, restarts=20, streams=256, bad=10, frames=10_000, fuzz=8, soak=1_000_000, clocks=10
)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path | None]:
    """A file system of that size; None where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def fill_disk(bundle: Path, work: Path) -> Row:
    """Every output of ``run``, ``export`` and ``batch`` on a disk that is too small."""
    row = Row("full disk at every output", recovery=None)
    scene = "synthetic:hard?size=128x192&frames=250"
    outputs = {kind: [f"--{kind}"] for kind in ("out", "labels", "areas", "sheet")}
    outputs["snapshot"] = ["--null", "--snapshot-every", "5", "--snapshot"]
    outputs["events"] = ["--null", "--events"]
    commands = {
        kind: [*PROGRAM, "run", str(bundle), scene, *words, "{disk}/" + kind]
        for kind, words in outputs.items()
    }
    commands["out"][-1] += ".mp4"
    commands["sheet"][-1] += ".png"
    weights = "samples/street/street.safetensors"
    export = ["export", weights, "--size", "64x128", "-o", "{disk}/b"]
    commands["export"] = [*PROGRAM, *export]
    batch = ["batch", str(bundle), f"{work}/videos/*.mp4", "-o", "{disk}/b"]
    commands["batch"] = [*PROGRAM, *batch, "--workers", "1"]
    for kind, command in commands.items():
        with small_disk(work / f"disk-{kind}", 8) as disk:
            if disk is None:
                row.note = "not run: this machine does not let a small disk be mounted"
                return row
            row.tries += 1
            if kind == "events":  # a few lines, which would fit
                with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
                    filler.write(bytes(1 << 20))
            code, text = run([word.replace("{disk}", str(disk)) for word in command])
            # Events are dropped with a message: a full log must not end a stream.
            message = "No space left" in text or "cannot write" in text
            row.wrong += not message or (code == 0 and kind != "events")
            row.tracebacks += text.count("Traceback")
    row.note = f"{', '.join(commands)}; wrong: exit code 0, or no word about it"
    return row


def digests(folder: Path) -> dict[str, str]:
    """Label map -> digest."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.png")}


def jump_clocks(bundle: Path, work: Path, tries: int) -> Row:
    """The wall clock of the process jumps by an hour, five times a second, while it runs."""
    row = Row("clock jumps of an hour, both ways", tries)
    shim = work / "clock_jumps.so"
    compiled = [
        "cc",
        "-O1",
        "-shared",
        "-fPIC",
        "-o",
        str(shim),
        "benchmarks/clock_jumps.c",
        "-ldl",
    ]
    if shutil.which("cc") is None or run(compiled)[0]:
        row.tries, row.note = 0, "not run: no C compiler here"
        return row
    moved = 0
    for number in range(tries):
        places = [work / f"clock-{number}-{name}" for name in ("still", "jumping")]
        counted = work / f"clock-{number}-moved"
        jumping = {"LD_PRELOAD": str(shim), "CLOCK_JUMPS": str(counted)}
        for options, place in zip(({}, jumping), places, strict=True):
            code, text = run(_clock_command(bundle, place, number), **options)
            row.tracebacks += text.count("Traceback")
            row.lost += code != 0
        readings = int(counted.read_text())
        if not readings:
            raise SystemExit("the clock was never read while it was moved: the trial says nothing")
        moved += readings
        still, found = map(digests, places)
        row.lost += len(still.keys() - found.keys())
        row.wrong += sum(still[name] != found[name] for name in still.keys() & found.keys())
    row.note = f"labels against a steady clock; {moved:,} readings were an hour off"
    return row


def _clock_command(bundle: Path, place: Path, seed: int) -> list[str]:
    source = f"synthetic:hard?size=48x64&frames=200&fps=100&seed={seed}#realtime"
    outputs = ["--labels", str(place), "--out", f"{place}.mp4", "--events", f"{place}.jsonl"]
    state = ["--snapshot", f"{place}.state", "--snapshot-every", "10", "--when-behind", "wait"]
    return [*PROGRAM, "run", str(bundle), source, *outputs, *state]


def restart_server(tries: int) -> Row:
    """An RTSP server is killed and started again; the source must come back."""
    row = Row("RTSP server killed and restarted", tries)
    if missing := missing_stream_tools():
        row.tries, row.note = 0, f"not run: {missing}"
        return row
    server = RtspServer((96, 128))
    options = SourceOptions(timeout=2, backoff=1)
    with open_source(server.address, options, on_event=lambda _event: None) as source:
        frames = iter(source)
        for _ in range(tries):
            next(frames)
            server.kill()
            time.sleep(0.5)
            server = RtspServer((96, 128), port=server.port)
            before = source.reconnects  # type: ignore[attr-defined]
            began = time.monotonic()
            while source.reconnects == before:  # type: ignore[attr-defined]
                if next(frames, None) is None or time.monotonic() - began > 60:
                    row.lost += 1
                    break
            row.recovered(time.monotonic() - began)
        source.stop()
    server.kill()
    row.note = "recovery from the moment the server is back; lost: did not come back within 60 s"
    return row


class PatternSource:
    """Frames made from a seed; a bad stream fails, stalls or changes."""

    live, name, frame_count, corrupt, passed_over = False, "pattern", None, 0, 0

    def __init__(self, seed: int, length: int, fault: str = "") -> None:
        self._seed, self._length, self._fault = seed, length, fault
        self._halt = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        rng = np.random.default_rng(self._seed)
        for index in range(self._length):
            if self._halt.is_set():
                return
            if self._fault and index == self._length // 3:
                self._fail()
            wide = 40 + 8 * (index % 3) if self._fault == "size" else 64
            image = rng.integers(0, 256, (48, wide, 3), dtype=np.uint8)
            yield Frame(image, index, index / 25)

    def _fail(self) -> None:
        kinds = {
            "value": ValueError("a bad value"),
            "memory": MemoryError(),
            "unicode": UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
            "source": SourceError("connection lost"),
        }
        if self._fault in kinds:
            raise kinds[self._fault]
        if self._fault == "stall":
            self._halt.wait(3)

    def stop(self) -> None:
        """End soon."""
        self._halt.set()

    def close(self) -> None:
        """End soon."""
        self._halt.set()


def run_fleet(bundle: Path, scale: Scale) -> Row:
    """Many streams of which some misbehave; the others' labels are those of a run on its own."""
    faults = ("value", "memory", "unicode", "source", "stall", "size")
    row = Row(f"{scale.streams} streams of which {scale.bad} misbehave", scale.bad)
    length = max(6, scale.frames // scale.streams)
    bad = {f"s{i}": faults[i % len(faults)] for i in range(scale.bad)}
    policy = StatePolicy(scene_cut=float("inf"))
    found: dict[str, list[bytes]] = {f"s{i}": [] for i in range(scale.streams)}
    events: list[Event] = []

    def source_of(number: int) -> Source:
        return PatternSource(number, length, bad.get(f"s{number}", ""))  # type: ignore[return-value]

    with Fleet(streamseg.open(bundle, threads=1), on_event=events.append) as fleet:
        for number in range(scale.streams):
            fleet.add(
                f"s{number}",
                lambda _stop, number=number: source_of(number),  # type: ignore[misc]
                policy=policy,
                pacing=Pacing(when_behind="wait"),
            )
        began = time.monotonic()
        for done in fleet:
            digest = hashlib.sha256(done.result.labels.tobytes()).digest()
            found[done.stream].append(digest)
        seconds = time.monotonic() - began
    with streamseg.open(bundle, threads=1) as stream:
        for number in range(scale.streams):
            if f"s{number}" in bad:
                continue
            stream.reset()
            got = found[f"s{number}"]
            for frame, digest in zip(PatternSource(number, length), got, strict=False):
                wanted = hashlib.sha256(stream.step(frame.image).labels.tobytes()).digest()
                row.wrong += wanted != digest
            row.lost += length - len(got)
    for name, fault in bad.items():
        if fault not in ("stall", "size") and len(found[name]) >= length:
            raise SystemExit(f"{name} did not misbehave: the trial says nothing")
    ended = {event.stream for event in events if event.kind == "end"}
    row.lost += len(found.keys() - ended)
    row.note = f"{sum(map(len, found.values())):,} frames in {seconds:.0f} s"
    return row


def fuzz(scale: int, work: Path) -> Row:
    """The tests that damage inputs, with a multiple of their inputs."""
    counted = work / "inputs"
    options = {"STREAMSEG_FUZZ_SCALE": str(scale), "STREAMSEG_FUZZ_COUNT": str(counted)}
    pytest = [sys.executable, "-m", "pytest", "-q", "-o", "timeout=7200", *FUZZERS]
    code, text = run(pytest, **options)
    tries = sum(int(line) for line in counted.read_text().split())
    failed = len(re.findall(r"^FAILED", text, re.MULTILINE)) if code else 0
    note = "manifests, arrays, graphs, snapshots, lists of streams, addresses, engine records, "
    return Row(
        "damaged inputs (seeded)",
        tries,
        wrong=failed,
        tracebacks=failed,
        note=note + "videos, images, HTTP, log lines; a test stops at its first failure",
    )


def soak(bundle: Path, frames: int) -> Row:
    """benchmarks/soak.py: eight streams, flat memory, threads and descriptors, labels as alone."""
    program = [sys.executable, "benchmarks/soak.py", str(bundle), "--frames", str(frames)]
    # A short run is mostly warm-up, whose growth means little.
    limit = ["--slope-limit", "0.01" if frames >= 50_000 else "0.05"]
    code, text = run([*program, *limit, "--print-only"])
    note = "eight streams that join, leave, stall and are reset; memory, threads, descriptors flat"
    if code:
        note += "; " + text.strip().splitlines()[-1][:200]
    return Row(f"{frames:,} frames of a toy network", 1, wrong=int(code != 0), note=note)


def table(rows: list[Row], machine: dict[str, object], *, long: bool) -> str:
    """The table of docs/reliability.md, with what it was measured on."""
    lines = [
        f"Version: {'long' if long else 'reduced'}; commit `{machine['commit']}`; "
        f"{machine['processor']}, {machine['cores']} cores shared with other work.",
        "",
        "| fault | tries | lost | wrong | tracebacks | recovery, at most | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        recovery = "-" if row.recovery is None else f"{row.recovery:.1f} s"
        figures = f"{row.tries:,} | {row.lost} | {row.wrong} | {row.tracebacks} | {recovery}"
        lines.append(f"| {row.fault} | {figures} | {row.note} |")
    return "\n".join(lines)


def write_page(text: str) -> None:
    """Put the table between the marks of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="the version of make verify-long")
    parser.add_argument("--only", help="rows whose name has this in it; writes nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--print-only", action="store_true", help="write no results")
    given = parser.parse_args()
    scale = LONG if given.long else SMALL
    rng = random.Random(given.seed)
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        work, bundle = Path(folder), Path(folder, "toy")
        prepare([sys.executable, "samples/smoothing_bundle.py", str(bundle), "--size", "48x64"])
        (work / "videos").mkdir()
        trials: dict[str, Callable[[], Row]] = {
            f"kill {job.name}": partial(kill_job, job, work / f"kill-{job.name}", scale.kills, rng)
            for job in make_jobs(work, bundle)
        }
        trials |= {
            "disk": lambda: fill_disk(bundle, work),
            "clock": lambda: jump_clocks(bundle, work, scale.clocks),
            "rtsp": lambda: restart_server(scale.restarts),
            "fleet": lambda: run_fleet(bundle, scale),
            "fuzz": lambda: fuzz(scale.fuzz, work),
            "soak": lambda: soak(bundle, scale.soak),
        }
        rows = []
        machine = describe_machine(1)
        for name, trial in trials.items():
            if given.only is not None and given.only not in name:
                continue
            rows.append(trial())
            print(name, asdict(rows[-1]), flush=True)
            if given.only is None and not given.print_only:
                # After every row, so completed rows are recorded even if a later one fails.
                content = {"machine": machine, "long": given.long, "rows": [*map(asdict, rows)]}
                write_json("reliability", content)
                write_page(table(rows, machine, long=given.long))
    bad = [row.fault for row in rows if row.lost or row.wrong or row.tracebacks]
    sys.exit(f"not as it must be: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
