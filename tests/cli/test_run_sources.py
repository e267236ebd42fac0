from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from streamseg.cli.main import run
from streamseg.cli.streams import StreamArguments, stream_options
from streamseg.runtime.loop.decoding import Pacing
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.snapshots import SnapshotPlan
from streamseg.runtime.sources import SourceOptions
from tests.runtime.clips import read_clip, write_clip
from tests.runtime.toy import write_toy_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_options_of_the_source_reach_it_and_its_counts_are_reported(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = write_clip(tmp_path / "clip.mp4", frames=10), tmp_path / "o.mp4"
    source = [f"{clip}#loop", "--start", 0.5, "--fps", 5]
    watch = ["--max-latency", 1e-9, "--when-behind", "wait"]
    assert call("run", bundle, *source, *watch, "--frames", 6, "--out", out) == 0
    text = capsys.readouterr().out
    assert "clip.mp4: 48x64, 5 fps, h264, software decoding" in text
    assert len(read_clip(out)) == 6
    assert re.search(r"^\d+ frames skipped to keep the requested rate", text, re.MULTILINE)
    assert "6 label maps later than --max-latency" in text
    assert "dropped" not in text


def test_password_of_a_source_is_not_printed(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--timeout", 1, "--out", tmp_path / "o.mp4"]
    assert call("run", bundle, "rtsp://joe:s3cret@127.0.0.1:1/x", *options) == 2
    shown = capsys.readouterr()
    assert "s3cret" not in shown.out + shown.err
    assert shown.err.startswith("streamseg: rtsp://***@127.0.0.1:1/x does not open: ")


def test_defaults_of_the_command_line_are_those_of_the_library() -> None:
    seen: list[StreamArguments] = []

    @click.command()
    @stream_options
    def command(streams: StreamArguments, events: Path | None) -> None:  # noqa: ARG001
        seen.append(streams)

    runner = CliRunner()
    assert runner.invoke(command, ["a", "b"]).exit_code == 0
    assert seen[0].sources == ("a", "b")
    assert seen[0].reading == SourceOptions()
    assert seen[0].policy == StatePolicy()
    assert seen[0].pacing == Pacing()
    assert seen[0].plan == SnapshotPlan()
    arguments = ["a", "--await-source", "--reconnect", "3", "--max-latency", "0.08"]
    assert runner.invoke(command, arguments).exit_code == 0
    assert seen[1].reading == SourceOptions(await_source=True, reconnect=3)
    assert seen[1].pacing == Pacing(max_latency=0.08)
