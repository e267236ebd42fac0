"""H.264 whose packets were damaged on purpose: what reaches the caller is as if undamaged."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.sources import Frame, open_source
from streamseg.runtime.sources.h264 import FrameNumbers
from streamseg.runtime.video.resize import Image
from tests.runtime.clips import TS_PACKET

SIZE = (96, 128)
FRAMES, GROUP = 60, 20
hypothesis = pytest.importorskip("hypothesis", reason="packets are fuzzed with hypothesis")
Damage = Callable[[bytearray], bytearray]


def textured_frame(index: int) -> Image:
    """A texture that moves by two columns and one row a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.ascontiguousarray(texture[index : index + SIZE[0], 2 * index : 2 * index + SIZE[1]])


def write_group_clip(
    path: Path,
    *,
    b_frames: int = 0,
    frames: int = FRAMES,
    group: int = GROUP,
    options: Mapping[str, str] = {},
) -> Path:
    """60 frames at 25 a second, a key frame every 20."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "g": str(group),
            "keyint_min": str(group),
            "sc_threshold": "0",
            "bf": str(b_frames),
            "crf": "20",
            **options,
        }
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(textured_frame(index % 60), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage_clip(path: Path, damages: Mapping[int, Damage | None]) -> Path:
    """A copy whose n-th packets are changed, or left out for None."""
    out = path.with_name("damaged" + path.suffix)
    with av.open(str(path)) as source, av.open(str(out), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.dts is None:
                continue
            if number in damages:
                damage = damages[number]
                if damage is None:
                    continue
                changed = av.Packet(bytes(damage(bytearray(bytes(packet)))))
                changed.pts, changed.dts = packet.pts, packet.dts
                changed.time_base, changed.is_keyframe = packet.time_base, packet.is_keyframe
                packet = changed
            packet.stream = copy
            container.mux(packet)
    return out


def read_all(path: Path) -> tuple[dict[int, Frame], int]:
    """Frames by their number in the undamaged clip, and the count of what was left out."""
    with open_source(str(path)) as source:
        return {round(frame.timestamp * 25): frame for frame in source}, source.corrupt


def cut_half(content: bytearray) -> bytearray:
    return content[: len(content) // 2]


def flip_bits(content: bytearray) -> bytearray:
    begin, end = len(content) * 2 // 5, len(content) * 4 // 5
    content[begin:end] = bytes(byte ^ 0x55 for byte in content[begin:end])
    return content


def break_head(content: bytearray) -> bytearray:
    content[:8] = b"\xff" * 8
    return content


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [(".mp4", cut_half), (".mp4", flip_bits), (".mp4", break_head), (".ts", cut_half)],
)
@pytest.mark.parametrize("number", [0, 5, 20, 33])
def test_no_picture_with_or_after_damage_is_given_until_the_next_key_frame(
    tmp_path: Path, suffix: str, damage: Damage, number: int
) -> None:
    clip = write_group_clip(tmp_path / f"clip{suffix}")
    first = read_all(clip)[0]
    shift = min(first)
    whole = {key - shift: frame for key, frame in first.items()}
    assert len(whole) == FRAMES
    found, corrupt = read_all(damage_clip(clip, {number: damage}))
    frames = {key - shift: frame for key, frame in found.items()}
    end = (number // GROUP + 1) * GROUP
    assert set(frames) == set(range(FRAMES)) - set(range(number, end))
    for key, frame in frames.items():
        np.testing.assert_array_equal(frame.image, whole[key].image)
    assert [frame.index for frame in found.values()] == list(range(len(found)))
    # Before the first whole key frame the decoder itself gives nothing to count.
    assert corrupt >= (end - number - 2 if number else 1)


def test_two_damaged_groups_are_both_left_out(tmp_path: Path) -> None:
    clip = write_group_clip(tmp_path / "clip.mp4")
    frames, corrupt = read_all(damage_clip(clip, {3: cut_half, 7: cut_half, 50: cut_half}))
    assert set(frames) == {0, 1, 2, *range(20, 50)}
    assert corrupt == 17 + 10


def test_frames_shown_out_of_order_are_left_out_with_what_they_need(tmp_path: Path) -> None:
    clip = write_group_clip(tmp_path / "clip.mp4", b_frames=2)
    whole = read_all(clip)[0]
    frames, corrupt = read_all(damage_clip(clip, {26: cut_half}))
    assert set(range(40, 60)) <= set(frames)
    assert set(range(18)) <= set(frames)
    assert corrupt >= 10
    for key, frame in frames.items():
        np.testing.assert_array_equal(frame.image, whole[key].image)


def test_damage_is_assumed_over_without_key_frames(tmp_path: Path) -> None:
    clip = write_group_clip(tmp_path / "clip.mp4", frames=300, group=300)
    frames, corrupt = read_all(damage_clip(clip, {10: cut_half}))
    assert set(range(10)) == {key for key in frames if key < 250}
    assert set(range(262, 300)) <= set(frames)
    assert corrupt + len(frames) == 300


def test_transport_stream_with_gaps_gives_only_complete_pictures(tmp_path: Path) -> None:
    clip = write_group_clip(tmp_path / "clip.ts", frames=200)
    whole = read_all(clip)[0]
    content = clip.read_bytes()
    assert len(whole) == 200
    chance = random.Random(3)
    for _ in range(30):
        begin = chance.randrange(40, len(content) // TS_PACKET - 20) * TS_PACKET
        end = begin + chance.choice([1, 1, 3, 7, 14]) * TS_PACKET
        (tmp_path / "gap.ts").write_bytes(content[:begin] + content[end:])
        frames, corrupt = read_all(tmp_path / "gap.ts")
        # Where nothing but the tables of the programs was lost, nothing is missing.
        assert (corrupt > 0) == (len(frames) < 200)
        assert len(frames) >= 200 - 3 * GROUP
        for key, frame in frames.items():
            np.testing.assert_array_equal(frame.image, whole[key].image)


@pytest.mark.parametrize("number", [5, 20, 33, 58])
def test_missing_frame_drops_the_frames_that_need_it(tmp_path: Path, number: int) -> None:
    # A transport stream that was rewritten: its packet counters know nothing of the loss.
    clip = write_group_clip(tmp_path / "clip.ts")
    whole = read_all(clip)[0]
    frames, corrupt = read_all(damage_clip(clip, {number: None}))
    shift = min(frames) - min(whole)
    end = (number // GROUP + 1) * GROUP
    assert len(frames) == FRAMES - (end - number)
    assert end - number - 3 <= corrupt <= end - number
    for key, frame in frames.items():
        np.testing.assert_array_equal(frame.image, whole[key - shift].image)


@pytest.mark.parametrize(
    ("b_frames", "options"),
    [(0, {}), (2, {}), (0, {"profile": "baseline"}), (2, {"x264-params": "cqm=jvt"})],
)
def test_numbers_of_an_undamaged_stream_never_miss(
    tmp_path: Path, b_frames: int, options: dict[str, str]
) -> None:
    for suffix in (".ts", ".mp4"):
        clip = write_group_clip(
            tmp_path / f"clip{suffix}", b_frames=b_frames, frames=120, group=100, options=options
        )
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            numbers = FrameNumbers(stream.codec_context.extradata or b"")
            packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        assert not any(numbers.misses(packet) for packet in packets)
        assert numbers._bits >= 4
        fresh = FrameNumbers(b"" if suffix == ".ts" else stream.codec_context.extradata)
        found = [fresh.misses(packet) for packet in packets[:10] + packets[20:]]
        assert found[10]
        assert sum(found) == 1


@hypothesis.given(hypothesis.strategies.lists(hypothesis.strategies.binary(max_size=40)))
def test_numbers_of_arbitrary_bytes_do_not_crash(packets: list[bytes]) -> None:
    for setup in (b"", b"\1dddd\xe1" + b"".join(packets[:1])):
        numbers = FrameNumbers(setup)
        for packet in packets:
            numbers.misses(packet)
            numbers.misses(b"\0\0\1" + packet)
            numbers.misses(b"\0\0\1\x67" + packet + b"\0\0\1\x61" + packet)


def test_clip_without_a_complete_frame_is_rejected(tmp_path: Path) -> None:
    clip = write_group_clip(tmp_path / "clip.mp4")
    damaged = damage_clip(clip, dict.fromkeys(range(FRAMES), break_head))
    with pytest.raises(SourceError, match=r"holds no frame that decodes \(\d+ damaged packets\)"):
        open_source(str(damaged))
