"""Batches as processes: started, watched, and seen to be gone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def start(bundle: Path, pattern: str, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "batch"]
    arguments = [str(bundle), pattern, "-o", str(out), *options]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_done(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the journal says so many are done."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        journal = out / ".streamseg" / "0-of-1.jsonl"
        if journal.exists() and journal.read_text().count('"done"') >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("the batch did not get that far")


def session_of(pid: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == pid and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def wait_until_gone(process: subprocess.Popen[str], *, but: tuple[str, ...] = ()) -> None:
    """Nothing of a session must outlive its first process, but for processes of these names."""
    deadline = time.monotonic() + 30
    while True:
        left = [pid for pid in session_of(process.pid) if name_of(pid) not in but]
        if not left:
            return
        assert time.monotonic() < deadline, f"outlive the batch: {[name_of(pid) for pid in left]}"
        time.sleep(0.05)


def name_of(pid: int) -> str:
    """First word of a process's command line; empty for one that has ended."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().partition(b"\0")[0].decode()
    except OSError:
        return ""
