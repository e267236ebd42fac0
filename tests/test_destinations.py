"""Every option of every command that writes: odd paths are right, or refused in one line."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from streamseg.cli.main import cli, run
from streamseg.cli.value_types import OutputType, OutputUrlType
from streamseg.destinations import FILE, FOLDER, Destination
from streamseg.errors import StreamsegError
from tests.runtime.clips import write_folder
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle

# Options with a path that is only read; any other must say what it writes.
READ = {
    *("--also", "--encoder-weights", "--engine", "--init", "--library", "--measured"),
    *("--memory-for", "--onnxruntime-web", "--ranges", "--resume", "--streams", "--token-file"),
}


def walk(command: click.Command, name: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Option]]:
    """Every option of every command, with the command's words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from walk(found, (*name, word))
        return
    for option in command.params:
        if isinstance(option, click.Option):
            yield " ".join(name), option


def kind_of(option: click.Option) -> Destination | None:
    if isinstance(option.type, OutputUrlType):
        return FOLDER
    return option.type.destination if isinstance(option.type, OutputType) else None


WRITTEN = [
    pytest.param(name, option, kind, id=f"{name} {option.opts[-1]}")
    for name, option in walk(cli)
    if (kind := kind_of(option)) is not None
]


def never(_: Destination) -> bool:
    return False


# Value -> which kinds of output accept it. 'file.txt', 'folder' and 'full.png/' exist.
ACCEPTED = {
    "": never,
    "-": lambda kind: kind.stdout,
    "new/": lambda kind: kind.folder,
    ".": lambda kind: kind.folder,
    "..": lambda kind: kind.folder,
    "folder": lambda kind: kind.folder,
    "folder/": lambda kind: kind.folder,
    "full.png": lambda kind: kind.folder,
    "./-": lambda kind: kind.folder or not kind.suffixes,
    "new": lambda kind: kind.folder or not kind.suffixes,
    "missing/deep/new": lambda kind: kind.folder or not kind.suffixes,
    "x.bogus": lambda kind: not kind.suffixes,
    "file.txt": lambda kind: kind.file and not kind.suffixes,
    "file.txt/new": never,
    "/dev/null": lambda kind: kind.appended,
    "/dev/full": lambda kind: kind.appended,
    "/dev/full/new": never,
    "n" * 300: never,
}


def test_every_path_option_is_read_or_checked() -> None:
    paths = {option.opts[-1] for _, option in walk(cli) if isinstance(option.type, click.Path)}
    assert paths == READ
    assert len(WRITTEN) >= 29


@pytest.mark.parametrize("value", ACCEPTED, ids=lambda value: value[:20] or "empty")
@pytest.mark.parametrize(("name", "option", "kind"), WRITTEN)
def test_odd_paths_are_accepted_or_refused_in_one_line(
    name: str,
    option: click.Option,
    kind: Destination,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("full.png").mkdir()
    Path("file.txt").write_text("kept")
    if ACCEPTED[value](kind):
        found = Path(option.type.convert(value, option, click.Context(cli)))
        assert found == (Path("-") if value == "-" else Path(value)) or found.name == "-"
        assert (found == Path("-")) == (value == "-")
    else:
        with pytest.raises(SystemExit) as caught:
            run([*name.split(), option.opts[0], value])
        assert caught.value.code == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(f"streamseg: {option.opts[-1]}: ")
        assert value.removesuffix("/new") in error
    assert Path("file.txt").read_text() == "kept"
    assert all(not path.is_file() or path.name == "file.txt" for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("kind", [FILE, FOLDER], ids=["file", "folder"])
def test_read_only_folder_is_refused_before_work(kind: Destination, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    for above in (tmp_path.parent, tmp_path.parent.parent):
        above.chmod(above.stat().st_mode | stat.S_IXOTH)
    child = os.fork()
    if child == 0:  # a user for whom permissions count
        code = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            kind.check(tmp_path / "new", StreamsegError)
        except StreamsegError as error:
            code = 0 if str(tmp_path) in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def clip_run(tmp_path: Path) -> list[str]:
    """A run of three frames, without outputs."""
    folder = write_folder(tmp_path / "clip", [(HEIGHT, WIDTH)] * 3)
    bundle = write_toy_bundle(tmp_path / "toy")
    return [sys.executable, "-m", "streamseg.cli.main", "run", str(bundle), str(folder)]


def call(
    command: list[str], *options: str, shell_output: str | None = None
) -> tuple[int, str, str]:
    with open(shell_output or os.devnull, "w") as target:  # noqa: PTH123
        done = subprocess.run(
            [*command, *options],
            stdout=subprocess.PIPE if shell_output is None else target,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    return done.returncode, done.stdout or "", done.stderr


def test_areas_and_events_on_standard_output_are_json_lines_alone(clip_run: list[str]) -> None:
    code, out, err = call(clip_run, "--areas", "-", "--events", "-")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    areas = [line for line in lines if "areas" in line]
    events = [line for line in lines if "kind" in line]
    assert [line["frame"] for line in areas] == [0, 1, 2]
    assert all(sum(line["areas"].values()) == pytest.approx(1, abs=1e-5) for line in areas)
    assert (events[0]["kind"], events[-1]["kind"]) == ("start", "end")
    assert len(areas) + len(events) == len(lines)
    assert "3 frames in" in err


def test_events_of_a_fleet_on_standard_output_name_their_stream(clip_run: list[str]) -> None:
    code, out, _ = call([*clip_run, clip_run[-1]], "--null", "--events", "-")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["stream"] for line in lines} == {"stream1", "stream2"}


def test_two_streams_cannot_share_standard_output(clip_run: list[str], tmp_path: Path) -> None:
    code, out, err = call([*clip_run, clip_run[-1]], "--areas", "-")
    assert (code, out) == (2, "")
    assert "areas-{stream}.jsonl" in err
    areas = str(tmp_path / "areas-{stream}.jsonl")
    assert call([*clip_run, clip_run[-1]], "--areas", areas)[0] == 0
    assert len(list(tmp_path.glob("areas-stream?.jsonl"))) == 2


@pytest.mark.parametrize(
    ("options", "target", "place"),
    [
        (("--areas", "/dev/full"), None, "/dev/full"),
        (("--areas", "-"), "/dev/full", "to standard output"),
        (("--null",), "/dev/full", "the output"),
    ],
)
def test_full_device_is_named_without_the_space_of_a_disk(
    clip_run: list[str], options: tuple[str, ...], target: str | None, place: str
) -> None:
    code, _, err = call(clip_run, *options, shell_output=target)
    assert code == 2
    assert err.splitlines()[-1] == f"streamseg: cannot write {place}: No space left on device"


def test_lines_go_to_a_pipe(clip_run: list[str]) -> None:
    code, _, err = call(clip_run, "--areas", "/dev/stderr")
    assert code == 0
    assert err.count('"areas"') == 3


@pytest.mark.parametrize("key", ["out", "labels", "snapshot"])
def test_list_of_streams_is_checked_as_the_options_are(
    key: str, clip_run: list[str], tmp_path: Path
) -> None:
    listed = tmp_path / "streams.toml"
    listed.write_text(f'[streams.a]\nsource = "{clip_run[-1]}"\n{key} = "-"\n')
    code, _, err = call(clip_run[:-1], "--streams", str(listed))
    assert code == 2
    assert f"[streams.a]: {key}: '-' means standard output" in err
