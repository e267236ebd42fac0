"""Hardware that decodes video, as far as PyAV's FFmpeg knows it."""

from __future__ import annotations

import logging

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available

from streamseg.errors import SourceError

logger = logging.getLogger(__name__)


def find_accelerator(decode: str) -> tuple[HWAccel | None, str]:
    """The device that decodes, and a phrase that says so or why there is none.

    Args:
        decode: ``software``, ``auto``, or an FFmpeg device type.

    Raises:
        SourceError: the installed FFmpeg does not know a device of that type.
    """
    if decode == "software":
        return None, "software decoding"
    known = hwdevices_available()
    if decode != "auto" and decode not in known:
        raise SourceError(
            f"no hardware decoder of type '{decode}' in the installed PyAV; "
            f"it knows: {', '.join(known) or 'none'}"
        )
    failures = []
    for device in known if decode == "auto" else [decode]:
        accelerator = HWAccel(device, allow_software_fallback=True)
        try:
            accelerator.create(av.Codec("h264", "r"))
        except NotImplementedError:
            failures.append(f"{device}: decodes no H.264")
        except av.error.FFmpegError as error:
            failures.append(f"{device}: {error.strerror}")
        else:
            return accelerator, f"{device} decoding"
    reason = f"software decoding, no hardware decoder here ({'; '.join(failures) or 'none known'})"
    logger.warning("%s", reason)
    return None, reason
