"""Settings of a source, and the addresses that name one: ``ADDRESS#option=value&option``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from streamseg.errors import SourceError
from streamseg.option_fields import check_options, option, option_fields, read_text
from streamseg.redaction import printable, redact

Transport = Literal["tcp", "udp"]
NETWORK = ("http", "https", "rtsp", "udp")
SCHEMES = ("camera", "file", "gst", *NETWORK, "synthetic")

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):(.*)", re.DOTALL)
_OPTION = r"[a-z][a-z_-]*(?:=[^&#@/\s]*)?"
_OPTIONS = re.compile(rf"{_OPTION}(?:&{_OPTION})*")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        start: seconds of a file, folder or scene to skip.
        loop: restart where a file or folder ends; timestamps continue.
        fps: at most so many frames a second of source time, the others are skipped; for a
            folder, whose images carry no times, its rate; requested from a camera.
        realtime: give the frames of a file, folder or scene no sooner than their timestamps say,
            as a camera would.
        live: take an HTTP address for a live stream, or for a file; None: as its header says.
        timeout: seconds without data after which a connection counts as lost.
        reconnect: attempts in a row to get a lost live source back; None: no limit.
        backoff: longest pause between two attempts, seconds.
        await_source: try a live source that is missing at the start again, too.
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

    start: float = option("Start at this time, in seconds.", default=0.0, low=0)
    loop: bool = option("Play a file again from its beginning when it ends.", default=False)
    fps: float | None = option(
        "Read at most this many frames per second; also the frame rate of a folder.",
        default=None,
        low=0.001,
        high=1000,
    )
    realtime: bool = option("Play a file at its own pace, as a camera would.", default=False)
    live: bool | None = option(
        "Treat an HTTP address as a live stream, or as a file.",
        default=None,
        unset="as its header says",
    )
    timeout: float = option(
        "Report a connection as lost after this many seconds without data.",
        default=5.0,
        low=0.1,
        high=3600,
    )
    reconnect: int | None = option(
        "Attempts in a row to reconnect to a lost live source.",
        default=None,
        low=0,
        unset="no limit",
    )
    backoff: float = option(
        "Longest pause between two attempts, in seconds.", default=30.0, low=0.1, high=3600
    )
    await_source: bool = option("Wait for a live source that is not available yet.", default=False)
    transport: Transport = option("Transport protocol of RTSP.", default="tcp")
    private_redirects: bool = option(
        "Follow HTTP redirects to private addresses of other hosts.", default=False
    )
    decode: str = option(
        "Decoder: software, auto (hardware if available), or a device type such as cuda or vaapi.",
        default="software",
    )
    deinterlace: bool = option("Deinterlace pictures that the stream marks.", default=True)
    bits: int | None = option(
        "Significant bits in 16-bit images.",
        default=None,
        low=8,
        high=16,
        unset="from the first image",
    )
    decode_threads: int | None = option(
        "Threads of the software decoder.", default=None, low=1, high=64, unset="FFmpeg decides"
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]{1,20}", self.decode):
            raise SourceError(
                "decode of a source is not valid; expected software, auto or a device type"
            )
        check_options(self, SourceError, "a source")


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
            f"{_shown(text.partition('#')[0] + '@')}: what follows '#' is not a list of options "
            "such as #fps=5&timeout=2; in a password, # is written %23"
        )
    changes: dict[str, object] = {}
    for part in tail.split("&"):
        key, equals, value = part.partition("=")
        name = key.replace("-", "_")
        if name in changes:
            raise SourceError(f"{_shown(address)}: option {key} is given twice; leave one out")
        changes[name] = _read_option(_shown(address), key, value if equals else None)
    return address, replace(defaults, **changes)  # type: ignore[arg-type]


def _is_network(text: str) -> bool:
    match = _SCHEME.fullmatch(text)
    return match is not None and match[1].lower() in NETWORK


_FIELDS = {field.flag: field for field in option_fields(SourceOptions)}


def _read_option(address: str, key: str, value: str | None) -> object:
    field = _FIELDS.get(key)
    if field is None:
        known = ", ".join(_FIELDS)
        raise SourceError(f"{address}: unknown option after '#'; known: {known}")
    return read_text(field, value, f"{address}: option {key}", SourceError)
