from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamseg
from streamseg.errors import SinkError, SourceError, StreamsegError
from streamseg.runtime.loop.fleet import Attachment, Fleet
from streamseg.runtime.loop.member import Member
from streamseg.runtime.loop.roster import Roster, StreamEntry, read_streams
from streamseg.runtime.sources import SourceOptions
from tests.runtime.toy import write_toy_bundle

SCENE = "synthetic:clean?size=32x48&fps=25"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    bundle = write_toy_bundle(tmp_path / "toy")
    with streamseg.open_fleet(bundle, threads=1, stay=True) as opened:
        yield opened


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "streams.toml"
    path.write_text(text)
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [defaults]
        out = "out/{stream}.mp4"
        gap-reset = 3
        timeout = 2.5

        [streams.front]
        source = "rtsp://user:pw@camera/1"
        transport = "udp"
        when-behind = "drop"
        max-latency = 0.12

        [streams.rear_2]
        source = "clip.mp4"
        out = "rear.mp4"
        labels = "labels/{stream}"
        areas = "areas.jsonl"
        loop = true
        scene_cut = 40.5
        """,
    )
    entries = read_streams(path)
    assert list(entries) == ["front", "rear_2"]
    front, rear = entries.values()
    assert front.options == SourceOptions(
        timeout=2.5, transport="udp", decode_threads=1, await_source=True
    )
    assert (front.policy.gap_reset, front.policy.scene_cut) == (3.0, None)
    assert (front.pacing.when_behind, front.pacing.max_latency) == ("drop", 0.12)
    assert front.paths == {"out": Path("out/front.mp4")}
    assert (rear.options.loop, rear.policy.scene_cut, rear.policy.gap_reset) == (True, 40.5, 3.0)
    assert rear.paths == {
        "out": Path("rear.mp4"),
        "labels": Path("labels/rear_2"),
        "areas": Path("areas.jsonl"),
    }


def test_command_line_holds_where_the_file_is_silent(tmp_path: Path) -> None:
    path = written(tmp_path, '[streams.a]\nsource = "0"\ntimeout = 9')
    base = StreamEntry(name="", source="", options=SourceOptions(timeout=1, backoff=4))
    (entry,) = read_streams(path, base).values()
    assert (entry.options.timeout, entry.options.backoff) == (9, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not valid TOML"),
        ("[stream.a]", "unknown table 'stream'"),
        ("streams = 1", "'streams' is not a table"),
        ("[streams]\na = 1", r"\[streams.a\] is not a table"),
        ('[streams.a]\nsorce = "0"', r"\[streams.a\]: unknown key 'sorce'; known: "),
        ("[streams.a]", r"\[streams.a\] has no source"),
        ("[streams.a]\nsource = 0", "source is not a text"),
        ('[streams.a]\nsource = ""', "has no source"),
        ('[streams.a]\nsource = "nope://x"', "scheme 'nope:' is not known"),
        ('[streams."../x"]\nsource = "0"', "a name is up to 64"),
        ('[streams.a]\nsource = "0"\nloop = 1', "loop is not true or false"),
        ('[streams.a]\nsource = "0"\nreconnect = true', "reconnect is not a whole number"),
        ('[streams.a]\nsource = "0"\ntimeout = "5"', "timeout is not a number"),
        ('[streams.a]\nsource = "0"\ntimeout = 0', "timeout of a source is 0"),
        ('[streams.a]\nsource = "0"\ngap-reset = -1', "gap_reset is -1"),
        (
            '[streams.a]\nsource = "0"\nmax-latency = 0',
            "max_latency is 0.0, expected a number above 0",
        ),
        (
            '[streams.a]\nsource = "0"\nwhen-behind = "x"',
            "when_behind is 'x', expected one of drop, wait",
        ),
        ('[streams.a]\nsource = "0"\ngap-reset = 1\ngap_reset = 1', "given twice"),
        ('[streams.a]\nsource = "0"\nmax-latency-ms = 5', "removed; use max-latency, in seconds"),
        ('[defaults]\nsource = "0"', "cannot have a source"),
        (
            '[defaults]\nout = "x.mp4"\n[streams.a]\nsource = "0"\n[streams.b]\nsource = "1"',
            r"streams 'a' and 'b' both write out to x.mp4; put \{stream\} into the name",
        ),
    ],
)
def test_mistakes_are_reported_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SourceError, match=message) as caught:
        read_streams(path)
    assert str(caught.value).startswith(str(path))


def test_output_over_any_source_is_refused(tmp_path: Path) -> None:
    clip = tmp_path / "b.mp4"
    clip.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path)
    text = f"""
        [defaults]
        out = "{tmp_path}/link/{{stream}}.mp4"
        [streams.a]
        source = "{clip}"
        [streams.b]
        source = "0"
    """
    path = written(tmp_path, text)
    with pytest.raises(SourceError, match=r"link/b.mp4 is a source; write to") as caught:
        read_streams(path)
    assert str(caught.value).startswith(str(path))


def test_missing_and_unreadable_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        read_streams(tmp_path / "none.toml")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(SourceError, match="is not valid TOML"):
        read_streams(tmp_path / "binary")


def test_passwords_stay_out_of_messages(tmp_path: Path) -> None:
    path = written(tmp_path, '[streams.a]\nsource = "nope://user:hunter2@x/"')
    with pytest.raises(SourceError) as caught:
        read_streams(path)
    assert "hunter2" not in str(caught.value)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=60).map(
            lambda text: f'[streams.a]\nsource = "{text}"'.encode("utf-8", "replace")
        ),
    )
)
def test_any_file_gives_streams_or_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fuzz.toml"
    path.write_bytes(content)
    with suppress(SourceError):
        assert all(isinstance(entry, StreamEntry) for entry in read_streams(path).values())


def wait_for(fleet: Fleet, names: set[str]) -> None:
    """Iterate until every stream of ``names`` gave a frame, and no other did."""
    seen = set()
    for done in fleet:
        assert done.stream in names
        seen.add(done.stream)
        if seen == names:
            break


def test_reload_lets_streams_join_leave_and_change(fleet: Fleet, tmp_path: Path) -> None:
    said: list[str] = []
    joined: list[str] = []

    def attach(_entry: StreamEntry) -> Attachment:
        return Attachment(on_join=lambda member: joined.append(member.name))

    roster = Roster(fleet, attach=attach, on_change=said.append)
    stays, leaves, changes = (
        f'[streams.{name}]\nsource = "{SCENE}&seed={seed}"\n'
        for name, seed in (("stays", 1), ("leaves", 2), ("changes", 3))
    )
    path = written(tmp_path, stays + leaves + changes)
    roster.reload(path)
    kept, changed = fleet["stays"], fleet["changes"]
    wait_for(fleet, {"stays", "leaves", "changes"})
    frames = kept.session.frames
    new = f'[streams.new]\nsource = "{SCENE}"\n'
    written(tmp_path, stays + changes.replace("seed=3", "seed=4") + new)
    roster.reload(path)
    assert said[-1] == "streams that left: leaves, changes; joined: changes, new"
    assert set(fleet.names) == {"stays", "changes", "new"}
    wait_for(fleet, {"stays", "changes", "new"})
    assert fleet["stays"] is kept
    assert kept.session.frames > frames
    assert kept.session.stream.steps == kept.session.frames
    assert fleet["changes"] is not changed
    assert joined == ["stays", "leaves", "changes", "changes", "new"]
    roster.reload(path)
    assert said[-1] == "the list of streams is unchanged"


def test_invalid_file_is_ignored_by_running_streams(fleet: Fleet, tmp_path: Path) -> None:
    said: list[str] = []
    roster = Roster(fleet, on_change=said.append)
    path = written(tmp_path, f'[streams.a]\nsource = "{SCENE}"')
    roster.reload(path)
    member = fleet["a"]
    for text in ("[", '[streams.b]\nsorce = "0"'):
        roster.reload(written(tmp_path, text))
        assert said[-1].startswith(f"the list was not changed: {path}")
    path.unlink()
    roster.reload(path)
    assert fleet["a"] is member
    wait_for(fleet, {"a"})


def test_failed_streams_are_retried_and_ended_ones_are_not(fleet: Fleet, tmp_path: Path) -> None:
    clip = tmp_path / "late.mp4"
    path = written(
        tmp_path,
        f'[streams.file]\nsource = "{clip}"\n[streams.short]\nsource = "{SCENE}&frames=2"\n'
        f'[streams.long]\nsource = "{SCENE}"',
    )
    roster = Roster(fleet)
    roster.reload(path)
    for _ in fleet:
        if fleet.names == ("long",):
            break
    assert fleet.failed == {"file"}
    roster.reload(path)
    assert set(fleet.names) == {"file", "long"}


def test_stream_that_cannot_join_is_reported_and_retried(fleet: Fleet, tmp_path: Path) -> None:
    said: list[str] = []
    refuse = True

    def join(member: Member) -> None:
        if refuse and member.name in ("bad", "worse"):
            raise SinkError("the disk is full")

    def attach(_entry: StreamEntry) -> Attachment:
        return Attachment(on_join=join)

    roster = Roster(fleet, attach=attach, on_change=said.append)
    path = written(
        tmp_path, f'[streams.bad]\nsource = "{SCENE}"\n[streams.good]\nsource = "{SCENE}"'
    )
    roster.reload(path)
    assert fleet.names == ("good",)
    assert "stream 'bad' cannot join: the disk is full" in said
    refuse = False
    roster.reload(path)
    assert set(fleet.names) == {"good", "bad"}
    refuse = True
    with pytest.raises(StreamsegError, match="disk is full"):
        Roster(fleet, attach=attach).follow({"worse": StreamEntry(name="worse", source=SCENE)})


@pytest.mark.parametrize("strict", [True, False])
def test_no_stream_joins_once_the_fleet_is_asked_to_stop(fleet: Fleet, strict: bool) -> None:
    fleet.stop()
    said: list[str] = []
    roster = Roster(fleet, attach=lambda _entry: Attachment(), on_change=said.append)
    roster.follow({"a": StreamEntry(name="a", source=SCENE)}, strict=strict)
    assert not said
    assert not list(fleet)
