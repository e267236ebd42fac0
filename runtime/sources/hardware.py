"""Hardware that decodes video, as far as PyAV's FFmpeg knows it."""

from __future__ import annotations

import functools
import logging

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available

from streamseg.runtime.sources.reader import UnusableSource

logger = logging.getLogger(__name__)


def find_accelerator(decode: str) -> tuple[HWAccel | None, str]:
    """What decodes, None for software, and a phrase that says so and why.

    Args:
        decode: ``software``, ``auto``, or an FFmpeg device type.

    Raises:
        SourceError: the installed FFmpeg does not know a device of that type.
    """
    if decode == "software":
        return None, "software decoding"
    device, phrase = _find_device(decode)
    return (HWAccel(device, allow_software_fallback=True) if device else None), phrase


@functools.cache
def _find_device(decode: str) -> tuple[str, str]:
    """Tried once a process: what a machine has does not change with every connection."""
    known = hwdevices_available()
    if decode != "auto" and decode not in known:
        raise UnusableSource(
            f"no hardware decoder of type '{decode}' in the installed PyAV; "
            f"it knows: {', '.join(known) or 'none'}"
        )
    failures = []
    for device in known if decode == "auto" else [decode]:
        try:
            HWAccel(device).create(av.Codec("h264", "r"))
        except NotImplementedError:
            failures.append(f"{device}: decodes no H.264")
        except av.error.FFmpegError as error:
            failures.append(f"{device}: {error.strerror}")
        else:
            return device, f"{device} decoding"
    reason = f"software decoding, no hardware decoder here ({'; '.join(failures) or 'none known'})"
    logger.warning("%s", reason)
    return "", reason
