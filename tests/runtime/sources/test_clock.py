from __future__ import annotations

import pytest

from streamseg.runtime.sources.clock import TOLERANCE, SourceClock

hypothesis = pytest.importorskip("hypothesis", reason="times are drawn with hypothesis")
st = hypothesis.strategies

FRAME = 0.04


def stamps(clock: SourceClock, *pairs: tuple[float | None, float]) -> list[float]:
    return [clock.stamp(time, arrival) for time, arrival in pairs]


@pytest.mark.parametrize("live", [True, False])
def test_times_of_the_source_are_taken_as_they_are(live: bool) -> None:
    clock = SourceClock(FRAME, live=live)
    assert stamps(clock, (1.4, 7.0), (1.44, 7.3), (1.6, 7.3)) == [1.4, 1.44, 1.6]


def test_first_frames_without_a_time_get_their_arrival() -> None:
    clock = SourceClock(FRAME, live=True)
    found = stamps(clock, (None, 50.0), (None, 50.1), (812.0, 50.15), (812.04, 50.16))
    assert found == pytest.approx([0.0, 0.1, 0.15, 0.19])


def test_frames_of_a_file_without_times_follow_its_rate() -> None:
    clock = SourceClock(FRAME, live=False)
    assert stamps(clock, (None, 1), (None, 9), (None, 9)) == pytest.approx([0.0, 0.04, 0.08])


def test_another_connection_counts_the_time_in_between() -> None:
    clock = SourceClock(FRAME, live=True)
    stamps(clock, (3.0, 100.0), (3.04, 100.04))
    clock.restart()
    found = stamps(clock, (90.0, 108.04), (90.04, 108.05))
    assert found == pytest.approx([11.04, 11.08])


def test_loop_continues_time_by_one_frame() -> None:
    clock = SourceClock(FRAME, live=False)
    stamps(clock, (3.0, 0), (3.04, 0))
    clock.restart()
    assert stamps(clock, (0.0, 0), (0.04, 0)) == pytest.approx([3.08, 3.12])


def test_joined_files_whose_times_restart_continue() -> None:
    clock = SourceClock(FRAME, live=False)
    found = stamps(clock, (1.4, 0), (1.44, 0), (0.0, 0), (0.04, 0))
    assert found == pytest.approx([1.4, 1.44, 1.48, 1.52])


@pytest.mark.parametrize("jump", [2 * TOLERANCE, -1000.0, 26.5 * 3600])
def test_live_source_whose_clock_jumps_follows_the_wall_clock(jump: float) -> None:
    clock = SourceClock(FRAME, live=True)
    stamps(clock, (5.0, 100.0))
    found = stamps(clock, (5.04 + jump, 100.04), (5.08 + jump, 100.08))
    assert found == pytest.approx([5.04, 5.08])


def test_frames_held_up_by_the_network_keep_the_times_of_the_source() -> None:
    clock = SourceClock(FRAME, live=True)
    found = stamps(clock, (5.0, 100.0), (5.04, 104.0), (5.08, 104.0), (9.0, 104.01))
    assert found == [5.0, 5.04, 5.08, 9.0]


TIMES = st.one_of(st.none(), st.floats(-1e6, 1e6))
STEPS = st.lists(st.tuples(TIMES, st.floats(0, 100), st.booleans()), max_size=30)


@hypothesis.given(STEPS, st.booleans())
def test_timestamps_never_go_back(
    steps: list[tuple[float | None, float, bool]], live: bool
) -> None:
    clock, arrival, last = SourceClock(FRAME, live=live), 0.0, None
    for time, passed, restarts in steps:
        arrival += passed
        if restarts:
            clock.restart()
        stamp = clock.stamp(time, arrival)
        assert last is None or stamp >= last
        last = stamp
