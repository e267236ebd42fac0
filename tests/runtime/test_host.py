"""What is read of the machine, against Python's own view and against files of known content."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamseg.runtime import host
from streamseg.runtime.host import LoadMeter, OtherWork, read_clocks

BUSY = "import time; end = time.time() + 20\nwhile time.time() < end: pass"


def test_peak_memory_is_what_the_system_counts() -> None:
    peak = host.peak_memory()
    assert peak is not None
    assert peak == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.1)
    assert 0 < (host.current_memory() or 0) <= peak * 1.05


def test_memory_that_is_taken_shows() -> None:
    before = host.current_memory()
    held = bytearray(os.urandom(1) * (64 << 20))
    after = host.current_memory()
    assert before is not None
    assert after is not None
    assert after - before > 60 << 20
    del held


def test_work_of_another_process_is_seen_and_own_work_is_not() -> None:
    own = LoadMeter()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    alone = own.read()
    other = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(0.2)
        meter = LoadMeter()
        time.sleep(0.5)
        beside = meter.read()
    finally:
        other.kill()
        other.wait()
    assert alone.cores is not None
    assert beside.cores is not None
    assert beside.cores > 0.3  # a share of one, where others work too
    assert alone.cores <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("cores", "note"),
    [
        (0.0, ""),
        (0.1, ""),
        (1.26, "other programs kept 1.3 of 4 processors busy: times are too long"),
        (None, "load unknown"),
    ],
)
def test_note_explains_the_load(cores: float | None, note: str) -> None:
    found = OtherWork(cores, 4).note
    assert found.startswith(note)
    assert bool(found) is bool(note)


def test_counts_of_the_system_become_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(host, "PROC", tmp_path)
    monkeypatch.setattr(host, "_own_seconds", lambda: 0.0)
    now = [100.0]
    monkeypatch.setattr(host.time, "monotonic", lambda: now[0])
    # user nice system idle iowait irq softirq steal guest guest_nice
    stat.write_text("cpu 100 0 50 1000 30 0 0 0 0 0\ncpu0 1 1 1 1\n")
    meter = LoadMeter()
    now[0] += 2.0
    # Idle time and waiting for a disk are no work; guests are in "user" already.
    stat.write_text(f"cpu {100 + ticks} 0 {50 + 2 * ticks} 9000 900 0 0 0 {ticks} 0\n")
    assert meter.read().cores == pytest.approx(1.5)
    stat.unlink()
    assert meter.read().cores is None


def test_clocks_are_read_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "CPUS", tmp_path)
    monkeypatch.setattr(host, "PROC", tmp_path)
    assert read_clocks() == {}
    assert host.processor_name() == os.uname().machine
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU\ncpu MHz : 2300.4\n")
    assert host.processor_name() == "Some CPU"
    assert read_clocks() == {"CPU clock": "2300 MHz"}
    folder = tmp_path / "cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_cur_freq").write_text("1200000\n")
    (folder / "cpuinfo_max_freq").write_text("2400000\n")
    (folder / "scaling_governor").write_text("powersave\n")
    assert read_clocks() == {"CPU clock": "1200 of 2400 MHz", "CPU governor": "powersave"}
