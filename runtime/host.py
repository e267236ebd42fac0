"""What Linux says of this machine while something is measured: processor, clocks, memory, load."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CPUS = Path("/sys/devices/system/cpu")
# Columns of /proc/stat in which a processor rests: idle, iowait.
_RESTING = (3, 4)
_GUESTS = 8  # from here on, time that other columns count too
BUSY_CORES = 0.25  # of other work, from which on times are doubtful


def processor_name() -> str:
    """The processor's name, or the architecture where Linux gives none."""
    found = _read_pairs(PROC / "cpuinfo")
    return found.get("model name") or platform.machine()


def read_clocks() -> dict[str, str]:
    """Clock and governor of the first processor, where they are readable."""
    folder = CPUS / "cpu0/cpufreq"
    current, highest = (
        _read_text(folder / name) for name in ("scaling_cur_freq", "cpuinfo_max_freq")
    )
    clocks = {}
    if current.isdigit() and highest.isdigit():
        clocks["CPU clock"] = f"{int(current) // 1000} of {int(highest) // 1000} MHz"
    elif megahertz := _read_pairs(PROC / "cpuinfo").get("cpu MHz"):
        clocks["CPU clock"] = f"{float(megahertz):.0f} MHz"
    if governor := _read_text(folder / "scaling_governor"):
        clocks["CPU governor"] = governor
    return clocks


def peak_memory() -> int | None:
    """Bytes of memory that this process held at most so far; None where Linux does not say."""
    return _status_bytes("VmHWM")


def current_memory() -> int | None:
    """Bytes of memory that this process holds; None where Linux does not say."""
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int | None:
    number = _read_pairs(PROC / "self/status").get(key, "").removesuffix("kB").strip()
    return int(number) * 1024 if number.isdigit() else None


@dataclass(frozen=True)
class OtherWork:
    """Other processes' share of the processors while something was measured.

    Attributes:
        cores: processors that others kept busy on average; None where Linux does not say.
        available: processors of the machine.
    """

    cores: float | None
    available: int

    @property
    def note(self) -> str:
        """What it means for the times; empty where the machine was quiet."""
        if self.cores is None:
            return "load unknown: times are too long if other programs were running"
        if self.cores < BUSY_CORES:
            return ""
        return (
            f"other programs kept {self.cores:.1f} of {self.available} processors busy: "
            "times are too long; measure again on a quiet machine"
        )


class LoadMeter:
    """Measures from its creation until ``read`` what other processes did."""

    def __init__(self) -> None:
        self._begin = _busy_seconds(), _own_seconds(), time.monotonic()

    def read(self) -> OtherWork:
        """The other processes' work since this was made."""
        available = os.cpu_count() or 1
        busy, own = _busy_seconds(), _own_seconds()
        elapsed = time.monotonic() - self._begin[2]
        if busy is None or self._begin[0] is None or elapsed <= 0:
            return OtherWork(None, available)
        others = busy - self._begin[0] - (own - self._begin[1])
        return OtherWork(max(0.0, others / elapsed), available)


def _busy_seconds() -> float | None:
    """Seconds of work of all processors since the machine was started."""
    columns = _read_text(PROC / "stat").partition("\n")[0].split()[1:]
    if not columns or not all(column.isdigit() for column in columns):
        return None
    ticks = [int(column) for column in columns[:_GUESTS]]
    busy = sum(count for place, count in enumerate(ticks) if place not in _RESTING)
    return busy / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Seconds of work of this process and of those that it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read_pairs(path: Path) -> dict[str, str]:
    """Lines ``key: value`` of a file; the first of each key."""
    found: dict[str, str] = {}
    for line in _read_text(path).splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found
