"""Frames of an H.264 stream that never came, seen by the numbers of those that did.

FFmpeg fills such a gap with the frame before it and says nothing. Clauses are of ITU-T H.264.
"""

from __future__ import annotations

from collections.abc import Iterator

SLICE, IDR_SLICE, SEQUENCE = 1, 5, 7  # nal_unit_type, table 7-1
HEAD = 512  # bytes of a unit that can hold what is read here
# Profiles whose sequence parameters tell the chroma format (7.3.2.1.1).
HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


class FrameNumbers:
    """Follows ``frame_num`` of a stream (7.4.3).

    Args:
        setup: the decoder's extradata; empty where the stream brings its own parameters.
    """

    def __init__(self, setup: bytes) -> None:
        self._length_size = (setup[4] & 3) + 1 if setup[:1] == b"\1" and len(setup) > 6 else 0
        self._bits = 0  # of frame_num; 0: not known, or gaps are allowed
        self._planes = False
        self._last: int | None = None
        for unit in _split_setup(setup) if self._length_size else _split_start_codes(setup):
            self._read_parameters(unit)

    def misses(self, packet: bytes) -> bool:
        """Whether a frame that others are predicted from is missing before this packet's."""
        units = (
            _split_lengths(packet, self._length_size)
            if self._length_size
            else _split_start_codes(packet)
        )
        for unit in units:
            kind = unit[0] & 31
            if kind == SEQUENCE:
                self._read_parameters(unit)
            elif kind == IDR_SLICE:
                self._last = 0
                return False
            elif kind == SLICE and self._bits:
                return self._follow(unit)
        return False

    def _follow(self, unit: bytes) -> bool:
        try:
            number = self._frame_number(unit)
        except IndexError:
            return False  # cut off: the decoder says so itself
        last, limit = self._last, 1 << self._bits
        if unit[0] & 0x60:  # nal_ref_idc: others are predicted from this one
            self._last = number
        return last is not None and number not in (last, (last + 1) % limit)

    def _frame_number(self, unit: bytes) -> int:
        bits = _Bits(unit)
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.count()
        if self._planes:
            bits.read(2)
        return bits.read(self._bits)

    def _read_parameters(self, unit: bytes) -> None:
        if unit[0] & 31 != SEQUENCE:
            return
        try:
            self._bits, self._planes = _sequence_parameters(_Bits(unit))
        except IndexError:
            self._bits = 0


def _sequence_parameters(bits: _Bits) -> tuple[int, bool]:
    """Bits of frame_num, 0 where the stream may leave some out, and separate_colour_plane_flag."""
    profile = bits.read(8)
    bits.read(16)
    bits.count()
    planes = False
    if profile in HIGH_PROFILES:
        chroma = bits.count()
        planes = chroma == 3 and bool(bits.read(1))
        bits.count()
        bits.count()
        bits.read(1)
        if bits.read(1):
            _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
    length = bits.count() + 4
    order = bits.count()
    if order == 0:
        bits.count()
    elif order == 1:
        bits.read(1)
        bits.count()
        bits.count()
        for _ in range(bits.count()):
            bits.count()
    bits.count()
    return (0 if bits.read(1) else length), planes


def _skip_scaling_lists(bits: _Bits, lists: int) -> None:
    for number in range(lists):
        if not bits.read(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                code = bits.count()
                following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
            last = following or last


class _Bits:
    """Reads a unit's payload bit by bit; IndexError at its end."""

    def __init__(self, unit: bytes) -> None:
        self._content = unit[1:HEAD].replace(b"\0\0\3", b"\0\0")
        self._place = 0

    def read(self, count: int) -> int:
        """An unsigned number of that many bits."""
        value = 0
        for _ in range(count):
            byte = self._content[self._place >> 3]
            value = value << 1 | byte >> (7 - (self._place & 7)) & 1
            self._place += 1
        return value

    def count(self) -> int:
        """An unsigned Exp-Golomb code, ue(v) (9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise IndexError
        return (1 << zeros) - 1 + self.read(zeros)


def _split_start_codes(content: bytes) -> Iterator[bytes]:
    begin = content.find(b"\0\0\1")
    while 0 <= begin < len(content) - 3:
        end = content.find(b"\0\0\1", begin + 3)
        if unit := content[begin + 3 : end if end >= 0 else len(content)]:
            yield unit
        begin = end


def _split_lengths(content: bytes, size: int) -> Iterator[bytes]:
    place = 0
    while place + size < len(content):
        length = int.from_bytes(content[place : place + size], "big")
        if unit := content[place + size : place + size + length]:
            yield unit
        place += size + length


def _split_setup(setup: bytes) -> Iterator[bytes]:
    """Sequence parameter sets of an avcC record."""
    place = 6
    for _ in range(setup[5] & 31):
        length = int.from_bytes(setup[place : place + 2], "big")
        if unit := setup[place + 2 : place + 2 + length]:
            yield unit
        place += 2 + length
