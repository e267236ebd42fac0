"""Folders and files that are replaced as a whole, also when the process is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamseg import files
from streamseg.errors import BackendError, BundleError
from streamseg.files import whole_folder
from streamseg.runtime.backends.engine_files import EngineRecord, read_record, write_engine
from streamseg.runtime.bundle.bundle import digest
from tests.fuzzing import inputs

COUNT = 12  # files of a folder, all of one number
WRITER = """
import sys
from itertools import count
from pathlib import Path
from streamseg.errors import BundleError
from streamseg.files import whole_folder

for number in count(int(sys.argv[2])):
    with whole_folder(Path(sys.argv[1]), BundleError) as draft:
        for index in range(12):
            (draft / f"{index}").write_text(str(number))
    print(number, flush=True)
"""


def write(target: Path, text: str) -> None:
    with whole_folder(target, BundleError) as draft:
        for index in range(COUNT):
            (draft / f"{index}").write_text(text)


def content(target: Path) -> set[str]:
    found = [file.read_text() for file in target.iterdir()]
    assert len(found) == COUNT
    assert len(set(found)) == 1
    return set(found)


def left_over(target: Path) -> list[str]:
    return [entry.name for entry in target.parent.iterdir() if entry != target]


def test_killed_writers_leave_a_complete_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    """kill -9 at random moments: the folder exists, complete and not older than reported."""
    target, rng = tmp_path / "street", random.Random(4)
    write(target, "0")
    said = 0
    for _ in range(inputs(12)):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target), str(said + 1)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        end = time.monotonic() + rng.uniform(0, 0.05)
        while time.monotonic() < end:
            assert target.is_dir()  # at every moment
        writer.kill()
        lines = [first, *writer.stdout.read().splitlines()]
        writer.wait()
        writer.stdout.close()
        said = int(lines[-1])
        (number,) = content(target)
        assert int(number) in (said, said + 1)
        said = int(number)
    write(target, "end")
    assert content(target) == {"end"}
    assert left_over(target) == []


def test_draft_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "street"
    with whole_folder(target, BundleError) as outer:
        (outer / "a").write_text("outer")
        write(target, "inner")
        assert (outer / "a").is_file()
    assert [file.read_text() for file in target.iterdir()] == ["outer"]
    assert left_over(target) == []


def test_file_system_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda _one, _other: False)
    target = tmp_path / "street"
    write(target, "old")
    write(target, "new")
    assert content(target) == {"new"}
    assert left_over(target) == []
    # What a kill between the two steps leaves.
    target.rename(tmp_path / ".street.x.draft.old")
    (tmp_path / ".street.x.draft").mkdir()
    with pytest.raises(RuntimeError), whole_folder(target, BundleError):
        raise RuntimeError
    assert content(target) == {"new"}
    assert left_over(target) == []


def test_other_names_are_not_swept(tmp_path: Path) -> None:
    for name in (".street2.x.draft", ".street.notes", "street.draft"):
        (tmp_path / name).mkdir()
    write(tmp_path / "street", "0")
    assert len(left_over(tmp_path / "street")) == 3


def test_sigterm_leaves_no_draft(tmp_path: Path) -> None:
    """The command line removes what it was writing when a service manager ends it."""
    script = (
        "import click, sys, time\n"
        "from pathlib import Path\n"
        "from streamseg.cli import main\n"
        "from streamseg.errors import BundleError\n"
        "from streamseg.files import whole_folder\n"
        "@main.cli.command('slow')\n"
        "def slow():\n"
        f"    with whole_folder(Path({str(tmp_path / 'street')!r}), BundleError):\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "main.COMMANDS['slow'] = ('slow', 'For this test.')\n"
        "main.LazyGroup.get_command = lambda self, context, name: self.commands[name]\n"
        "main.run(['slow'])\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    writer.send_signal(signal.SIGTERM)
    assert writer.wait(10) == 128 + signal.SIGTERM
    writer.stdout.close()
    assert list(tmp_path.iterdir()) == []


def record_of(content: bytes) -> EngineRecord:
    names = ("step", "sha256:0", "tensorrt", "10.3", "gpu", ("8.6",), "12", "fp32", "")
    return EngineRecord(*names, digest(content))


@pytest.mark.parametrize("stop", range(6))
def test_engine_and_record_fit_after_a_stop_at_any_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    engine = tmp_path / "step.engine"
    write_engine(engine, b"old", record_of(b"old"))
    renames = 0
    rename = Path.replace

    def counting(self: Path, target: Path) -> Path:
        nonlocal renames
        if renames == stop:
            raise OSError(28, os.strerror(28))
        renames += 1
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", counting)
    try:
        write_engine(engine, b"new", record_of(b"new"))
    except BackendError:
        assert stop < 3
    assert read_record(engine).engine_sha256 == digest(engine.read_bytes())
