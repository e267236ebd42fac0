"""Options of all commands: one name has one meaning, and everything that shows one uses it."""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from functools import cache
from inspect import Parameter, signature
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from streamseg.cli.main import COMMANDS, SYNONYMS, cli, run
from streamseg.cli.streams import stream_options
from streamseg.cli.subcommand import Subcommand, split_examples
from streamseg.errors import BundleError
from streamseg.option_fields import PRECISIONS, option_fields
from streamseg.runtime.loop.decoding import Pacing
from streamseg.runtime.opening_options import OpeningOptions
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.snapshots import SnapshotPlan
from streamseg.runtime.sources import SourceOptions
from streamseg.runtime.stream import open_stream
from tests.conftest import ROOT

# What differs from command to command is what is written; that it is the result does not.
NAMES_A_RESULT = {"--out", "--resume", "--plot"}
# Options of a command itself: what it reads and writes. All others come from dataclass fields.
TYPED_BY_HAND = {
    *("--out", "--json", "--plot", "--events", "--streams", "--resume", "--set"),
    *("--ray", "--variant", "--for", "--frames", "--verbose", "--debug"),
}
# Commands that print, or change their bundle.
SHOWING = {
    "bench",
    "doctor",
    "sweep",
    "models",
    "prototypes",
    "inspect",
    "serve",
    "compare",
    "dataset check",
}
PAGES = [ROOT / "README.md", ROOT / "Makefile", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = [ROOT / "samples/street/train.sh", ROOT / "benchmarks/gpu/run.sh"]


@cache
def subcommands() -> dict[str, Subcommand]:
    """Every command by its words, such as ``run`` and ``dataset check``."""
    found = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        found.update({f"{name} {word}".strip(): entry for word, entry in inner.items()})
    assert all(isinstance(command, Subcommand) for command in found.values())
    return found  # type: ignore[return-value]


def command_named(name: str) -> Subcommand:
    return subcommands()[name]


def options_of(name: str) -> dict[str, click.Option]:
    """Flag -> option of a command."""
    found = [entry for entry in command_named(name).params if isinstance(entry, click.Option)]
    return {flag: entry for entry in found for flag in (*entry.opts, *entry.secondary_opts)}


def describe(option: click.Option) -> tuple[object, ...]:
    """What an option takes."""
    kind = option.type.name if not isinstance(option.type, click.Choice) else "choice"
    return kind, option.is_flag, option.multiple, option.nargs, bool(option.secondary_opts)


def test_one_name_has_one_meaning_in_every_command() -> None:
    kinds: dict[str, dict[tuple[object, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in subcommands():
        for flag, option in options_of(name).items():
            kinds[flag][describe(option)].append(name)
            texts[flag][str(option.help)].append(name)
    # A folder or a file is written; an archive's results may lie at a URL, which is text.
    del kinds["--out"], kinds["-o"]
    assert {flag: dict(found) for flag, found in kinds.items() if len(found) > 1} == {}
    differing = {flag for flag, found in texts.items() if len(found) > 1 and flag != "-o"}
    assert {flag: dict(texts[flag]) for flag in differing - NAMES_A_RESULT} == {}


def test_options_come_from_dataclass_fields() -> None:
    found = {
        option.opts[-1]
        for name in subcommands()
        for option in options_of(name).values()
        if getattr(option, "field", None) is None
    }
    assert found == TYPED_BY_HAND


def test_precision_has_one_vocabulary() -> None:
    choices = {
        name: list(option.type.choices)
        for name in subcommands()
        if (option := options_of(name).get("--precision")) is not None
        and isinstance(option.type, click.Choice)
    }
    assert set(choices) >= {"export", "build", "run", "serve", "batch", "train"}
    assert {word for words in choices.values() for word in words} == set(PRECISIONS)


@pytest.mark.parametrize("words", [["{}", "inspect", "missing"], ["inspect", "missing", "{}"]])
@pytest.mark.parametrize(("flag", "level"), [("-v", logging.INFO), ("--debug", logging.DEBUG)])
def test_logging_flags_work_before_and_after_the_command(
    words: list[str], flag: str, level: int
) -> None:
    failure = BundleError if flag == "--debug" else SystemExit  # --debug shows the traceback
    try:
        with pytest.raises(failure):
            run([word.format(flag) for word in words])
        assert logging.getLogger("streamseg").level == level
    finally:
        logging.getLogger("streamseg").setLevel(logging.WARNING)


def test_every_command_that_writes_has_out() -> None:
    writing = set(subcommands()) - SHOWING
    assert [name for name in writing if not {"-o", "--out"} <= set(options_of(name))] == []


def test_removed_options_name_the_new_form() -> None:
    for name in subcommands():
        for flag, hint in command_named(name).removed.items():
            assert flag not in options_of(name)
            for new in re.findall(r"--[a-z-]+", hint):
                assert new in options_of(name), (name, flag, hint)
            done = CliRunner().invoke(cli, [*name.split(), flag, "x"])
            assert done.exit_code == 2
            assert f"Error: {flag} was removed: {hint}" in done.output


@pytest.mark.parametrize("name", list(subcommands()))
def test_help_has_groups_and_two_examples_that_parse(name: str) -> None:
    text = CliRunner().invoke(cli, [*name.split(), "--help"]).output
    headings = re.findall(r"^([A-Z][a-z ]+):$", text, re.MULTILINE)
    assert headings[-2:] == ["General", "Examples"]
    assert name == "inspect" or headings[0] == "Common options"
    examples = split_examples(command_named(name))
    assert len(examples) == 2
    for words in examples:
        assert " ".join(words).startswith(name)
        check_line(words)


def check_line(words: list[str]) -> None:
    """A command line uses options that its command has."""
    name = " ".join(words[:2]) if words[0] == "dataset" else words[0]
    known = {**options_of(name), "-h": None, "--help": None}
    for word in words[1:]:
        flag = re.match(r"--?[a-z][a-z-]*", word)
        if flag is not None:
            assert flag[0] in known, (flag[0], words)


def command_lines(text: str) -> list[list[str]]:
    """The calls of streamseg in a text, as words."""
    text = text.replace("\\\n", " ")
    pattern = rf"(?:^|[`\s/])streamseg ((?:{'|'.join(subcommands())}) [^`\n#&|;)]+)"
    found = []
    for line in re.findall(pattern, text):
        try:
            words = shlex.split(line)
        except ValueError:  # prose with an apostrophe
            words = line.split()
        found.append([word for word in words if word not in ("...",)])
    return found


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=lambda page: page.name)
def test_documented_command_lines_use_options_that_exist(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        check_line(words)


def test_documented_options_exist() -> None:
    """Options named in prose belong to some command, a sample, a benchmark or the C++ tool."""
    known = {flag for name in subcommands() for flag in options_of(name)}
    others = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("samples", "benchmarks", "cpp", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sh", ".cpp") and path.is_file()
    )
    others += "--backend-config --build-arg"  # of Triton and Docker
    unknown = {}
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name == "command-line.md":  # has the removed ones in a table
            continue
        named = re.findall(r"`(--[a-z][a-z-]+)[ `=]", page.read_text(encoding="utf-8"))
        lost = [flag for flag in named if flag not in known and flag not in others]
        if lost:
            unknown[page.name] = lost
    assert unknown == {}


def test_lists_of_streams_have_the_keys_of_the_command_line() -> None:
    @click.command()
    @stream_options
    def command(streams: object, events: object) -> None: ...

    flags = {flag for entry in command.params for flag in entry.opts}
    for owner in (SourceOptions, Pacing, StatePolicy, SnapshotPlan):
        for entry in option_fields(owner):
            assert f"--{entry.flag}" in flags
            assert entry.name in {field.name for field in fields(owner)}


def test_arguments_of_open_are_the_opening_options() -> None:
    arguments = signature(open_stream).parameters
    for entry in option_fields(OpeningOptions):
        parameter = arguments[entry.name]
        assert parameter.kind is Parameter.KEYWORD_ONLY
        assert parameter.default == entry.default
    assert set(arguments) - {entry.name for entry in option_fields(OpeningOptions)} == {
        "bundle",
        "reuse",
    }


@pytest.mark.parametrize(
    ("word", "meant"),
    [("predict", "run"), ("serv", "serve"), ("quantize", "calibrate"), ("evalute", "eval")],
)
def test_unknown_command_suggests_one(word: str, meant: str) -> None:
    done = CliRunner().invoke(cli, [word])
    assert done.exit_code == 2
    assert f"unknown command '{word}'; did you mean '{meant}'?" in done.output


def test_synonyms_lead_to_commands() -> None:
    assert set(SYNONYMS.values()) <= set(COMMANDS)
    assert not set(SYNONYMS) & set(COMMANDS)


def test_versions_of_the_parts_are_shown() -> None:
    import av
    import cv2
    import onnxruntime

    text = CliRunner().invoke(cli, ["--version"]).output
    assert f"ONNX Runtime {onnxruntime.__version__}" in text
    assert f"PyAV {av.__version__}" in text
    assert f"OpenCV {cv2.__version__}" in text
    assert "operator library" in text


EARLY = """
import sys, time
from streamseg.cli.main import run
folder = sys.argv[1]
size = ["--size", "64x64"]
for arguments in (
    ["export", "missing.pth", *size, "-o", folder + "/a"],
    ["export", __file__ if "__file__" in globals() else folder, *size, "-o", "/dev/null"],
    ["models", "missing.pth"],
    ["eval", "missing.pth", *size, "--dataset", "synthetic:easy"],
    ["eval", folder, *size, "--dataset", "nothing:x"],
    ["compare", "missing.pth", "other.pth", "synthetic:easy", *size],
    ["train", "--dataset", "synthetic:easy", "--init", "missing.pth", "-o", folder + "/b"],
    ["train", "--dataset", "unknown:x", "-o", folder + "/b"],
    ["train", "--dataset", "synthetic:easy", "--encoder", "vgg", "-o", folder + "/b"],
    ["train", "--dataset", "synthetic:easy", "--model", "unet", "-o", folder + "/b"],
    ["calibrate", "missing", "-o", folder + "/c", "--dataset", "synthetic:easy"],
    ["build", "missing"],
    ["run", "missing", "missing.mp4", "-o", folder + "/o.mp4"],
):
    before = time.process_time()
    try:
        run(arguments)
    except SystemExit as error:
        assert error.code == 2, arguments
    else:
        raise AssertionError(arguments)
    spent = time.process_time() - before
    assert "torch" not in sys.modules, arguments
    assert spent < 1, (spent, arguments)
"""


def test_mistakes_are_reported_before_torch_is_imported(tmp_path: Path) -> None:
    words = [sys.executable, "-c", EARLY, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
