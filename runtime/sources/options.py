"""Settings of a source, and the addresses that name one: ``ADDRESS#option=value&option``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from streamseg.errors import SourceError
from streamseg.redaction import printable, redact

Transport = Literal["tcp", "udp"]
NETWORK = ("http", "https", "rtsp", "udp")
SCHEMES = ("camera", "file", "gst", *NETWORK, "synthetic")

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):(.*)", re.DOTALL)
_OPTION = r"[a-z][a-z_-]*(?:=[^&#@/\s]*)?"
_OPTIONS = re.compile(rf"{_OPTION}(?:&{_OPTION})*")
_YES = {"": True, "1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        start: seconds of a file, folder or scene to pass over.
        loop: begin again where a file or folder ends; timestamps go on.
        fps: at most so many frames a second of source time, the others are passed over; for a
            folder, whose images carry no times, its rate; a camera is asked for it.
        realtime: give the frames of a file, folder or scene no sooner than their timestamps say,
            as a camera would.
        live: take an HTTP address for a live stream, or for a file; None: as its header says.
        timeout: seconds without data after which a connection counts as lost.
        reconnect: attempts in a row to get a lost live source back; None: no limit.
        backoff: longest pause between two attempts, seconds.
        await_source: try a live source that is not there at the start again, too.
        transport: of RTSP.
        private_redirects: follow redirects of HTTP servers to private addresses of other hosts.
        decode: ``software``, ``auto`` for whatever hardware decodes here, or the name of an FFmpeg
            hardware device type such as ``cuda`` or ``vaapi``.
        deinterlace: make interlaced pictures whole, where the stream marks them.
        bits: bits of a value in 16-bit images, 8 to 16; None judges by the first image.
        decode_threads: of the software decoder; None leaves it to FFmpeg, which takes as many as
            there are cores: too many where hundreds of sources are read.

    Raises:
        SourceError: a value is outside its range.
    """

    start: float = 0.0
    loop: bool = False
    fps: float | None = None
    realtime: bool = False
    live: bool | None = None
    timeout: float = 5.0
    reconnect: int | None = None
    backoff: float = 30.0
    await_source: bool = False
    transport: Transport = "tcp"
    private_redirects: bool = False
    decode: str = "software"
    deinterlace: bool = True
    bits: int | None = None
    decode_threads: int | None = None

    def __post_init__(self) -> None:
        self._check("start", self.start, 0, 1e9)
        if self.fps is not None:
            self._check("fps", self.fps, 0.001, 1000)
        self._check("timeout", self.timeout, 0.1, 3600)
        self._check("backoff", self.backoff, 0.1, 3600)
        if self.reconnect is not None:
            self._check("reconnect", self.reconnect, 0, 10**9)
        if self.bits is not None:
            self._check("bits", self.bits, 8, 16)
        if self.decode_threads is not None:
            self._check("decode_threads", self.decode_threads, 1, 64)
        if self.transport not in ("tcp", "udp"):
            raise SourceError("transport of a source is neither tcp nor udp")
        if not re.fullmatch(r"[a-z0-9]{1,20}", self.decode):
            raise SourceError("decode of a source is neither software, auto nor a device type")

    @staticmethod
    def _check(name: str, value: float, low: float, high: float) -> None:
        if not (math.isfinite(value) and low <= value <= high):
            raise SourceError(f"{name} of a source is {value:g}; expected {low:g} to {high:g}")


@dataclass(frozen=True)
class SourceAddress:
    """An address taken apart.

    Attributes:
        scheme: one of ``SCHEMES``.
        target: path, camera number or device, pipeline, scene, or the whole network address.
        name: the address for messages, without passwords.
        options: the given ones, changed as the address says.
    """

    scheme: str
    target: str
    name: str
    options: SourceOptions


def parse_source(text: str, defaults: SourceOptions | None = None) -> SourceAddress:
    """Take an address apart.

    Digits alone are a camera; what else exists as a file or folder is that, whatever it looks like.

    Raises:
        SourceError: unknown scheme or option, or a value outside its range.
    """
    if "\0" in text or not text:
        raise SourceError("the address of a source is empty or holds a zero byte")
    defaults = defaults or SourceOptions()
    whole = is_there(text) and not _camera_number(text)
    address, options = (text, defaults) if whole else _split_options(text, defaults)
    if number := _camera_number(address):
        return SourceAddress("camera", number, f"camera {number}", options)
    if is_there(address):
        return SourceAddress("file", address, printable(address), options)
    match = _SCHEME.fullmatch(address)
    scheme, rest = (match[1].lower(), match[2]) if match else ("", "")
    if scheme == "file":
        path = rest.removeprefix("//")
        shown = printable(path) if is_there(path) else _shown(address)
        return SourceAddress("file", path, shown, options)
    if scheme in NETWORK:
        if not re.match(r"//[^/]", rest):
            raise SourceError(f"{_shown(address)} names no host; expected {scheme}://HOST/...")
        return SourceAddress(scheme, f"{scheme}:{rest}", _shown(address), options)
    if scheme in SCHEMES:
        if scheme == "camera":
            raise SourceError("a camera is written camera:NUMBER or camera:/dev/videoNUMBER")
        return SourceAddress(scheme, rest, _shown(address), options)
    if rest.startswith("//"):
        raise SourceError(
            f"source scheme '{scheme}:' is not known; expected a video file, a folder of "
            "images, a camera number, or one of " + ", ".join(f"{name}:" for name in SCHEMES)
        )
    return SourceAddress("file", address, _shown(address), options)


def require_kept(text: str, places: Iterable[Path], where: str = "") -> None:
    """Raise SourceError where an output would replace the file or folder that an address reads."""
    address = parse_source(text)
    if address.scheme != "file" or not is_there(address.target):
        return
    for place in places:
        if place.resolve() == Path(address.target).resolve():
            raise SourceError(f"{where}{place} is a source; write to another place")


def _shown(address: str) -> str:
    """An address for messages: no passwords, one line."""
    return printable(redact(address))


def _camera_number(address: str) -> str:
    match = re.fullmatch(r"(?:camera:)?(?:/dev/video)?([0-9]{1,4})", address)
    return match[1] if match else ""


def is_there(path: str) -> bool:
    """Whether there is a file or folder of that name, however odd the name."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _split_options(text: str, defaults: SourceOptions) -> tuple[str, SourceOptions]:
    address, mark, tail = text.rpartition("#")
    if not mark or (not _OPTIONS.fullmatch(tail) and not _is_network(text)):
        return text, defaults
    if not _OPTIONS.fullmatch(tail):
        raise SourceError(
            f"{_shown(text.partition('#')[0] + '@')}: what follows '#' is no list of options such "
            "as #fps=5&timeout=2; in a password, # is written %23"
        )
    changes: dict[str, object] = {}
    for part in tail.split("&"):
        key, equals, value = part.partition("=")
        name = key.replace("-", "_")
        if name in changes:
            raise SourceError(f"{_shown(address)}: option {key} is given twice; leave one out")
        changes[name] = _read_option(_shown(address), key, value if equals else "")
    return address, replace(defaults, **changes)  # type: ignore[arg-type]


def _is_network(text: str) -> bool:
    match = _SCHEME.fullmatch(text)
    return match is not None and match[1].lower() in NETWORK


_KINDS = {field.name: str(field.type) for field in fields(SourceOptions)}


def _read_option(address: str, key: str, value: str) -> object:
    kind = _KINDS.get(key.replace("-", "_"))
    if kind is None or "_" in key:
        known = ", ".join(name.replace("_", "-") for name in _KINDS)
        raise SourceError(f"{address}: unknown option after '#'; these are known: {known}")
    try:
        if kind.startswith("bool"):
            return _YES[value.lower()]
        if kind.startswith("float"):
            return float(value)
        if kind.startswith("int"):
            return int(value)
    except (KeyError, ValueError):
        expected = {"b": "yes or no", "f": "a number", "i": "a whole number"}[kind[0]]
        raise SourceError(f"{address}: option {key} expects {expected}") from None
    return value
