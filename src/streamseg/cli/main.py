"""Entry point of the command line: lazy sub-commands, one line per mistake, exit codes."""

from __future__ import annotations

import difflib
import errno
import importlib
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import click

from streamseg._version import __version__
from streamseg.cli.subcommand import logging_options, start_logging
from streamseg.errors import StreamsegError

# Sub-command -> (module under streamseg.cli, one-line help). Help stands here so that
# `streamseg --help` imports none of them.
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("doctor", "Check this machine and suggest fixes."),
    "export": ("export", "Export a checkpoint to a bundle."),
    "import": ("import_onnx", "Import an ONNX graph with state as a bundle."),
    "models": ("models", "List supported models with sizes and published accuracy."),
    "prototypes": ("prototypes", "Compute the prototypes of a CFFM++ bundle from footage."),
    "build": ("build", "Build TensorRT engines of a bundle for this machine."),
    "triton": ("triton", "Write a Triton model repository for a bundle."),
    "web": ("web", "Write a static web site that runs a bundle in the browser."),
    "inspect": ("inspect", "Verify a bundle and show its contents."),
    "run": ("run", "Segment videos, folders of images, cameras and streams."),
    "bench": ("bench", "Time a bundle on this machine, with state."),
    "serve": ("serve", "Show live streams with metrics on a web page."),
    "batch": ("batch", "Segment an archive of videos, on processes or a Ray cluster."),
    "train": ("train", "Train a network on clips of a labelled dataset."),
    "eval": ("eval", "Score a bundle or checkpoint on a labelled dataset."),
    "sweep": ("sweep", "Score a checkpoint under other offsets, intervals, windows, keep ratios."),
    "dataset": ("dataset", "Check a dataset's tree; write predictions for VSPW's test server."),
    "compare": ("compare", "Measure how two models drift apart over the same frames."),
    "calibrate": ("calibrate", "Convert a bundle to INT8 with ranges measured on your clips."),
}
# Other names that people try.
SYNONYMS = {
    "annotate": "run",
    "benchmark": "bench",
    "check": "doctor",
    "cluster": "prototypes",
    "convert": "export",
    "demo": "serve",
    "detect": "run",
    "diff": "compare",
    "drift": "compare",
    "engine": "build",
    "evaluate": "eval",
    "finetune": "train",
    "fit": "train",
    "infer": "run",
    "info": "inspect",
    "inference": "run",
    "int8": "calibrate",
    "list": "models",
    "play": "run",
    "predict": "run",
    "process": "run",
    "quantise": "calibrate",
    "quantize": "calibrate",
    "score": "eval",
    "segment": "run",
    "server": "serve",
    "show": "inspect",
    "stream": "run",
    "test": "eval",
    "time": "bench",
    "validate": "eval",
    "view": "serve",
    "watch": "serve",
}


class LazyGroup(click.Group):
    """A click group that imports a sub-command's module only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import ``streamseg.cli.<module>`` and return its ``command``."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"streamseg.cli.{COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the sub-command; suggest one where the name is unknown."""
        name = args[0]
        if name not in COMMANDS and not ctx.resilient_parsing and not name.startswith("-"):
            _refuse_command(name, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the help table without importing the sub-commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _refuse_command(name: str, context: click.Context) -> NoReturn:
    """Raise click's UsageError with the sub-command that was meant, if one is likely."""
    word = name.lower()
    close = difflib.get_close_matches(word, (*COMMANDS, *SYNONYMS), n=1)
    meant = SYNONYMS.get(close[0], close[0]) if close else ""
    hint = f"did you mean '{meant}'?" if meant else f"commands: {', '.join(COMMANDS)}"
    raise click.UsageError(f"unknown command '{name}'; {hint}", context)


def _show_versions(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from streamseg.doctor import describe_versions

        click.echo(f"streamseg {__version__}")
        for line in describe_versions():
            click.echo(line)
        context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_versions,
    help="Show the versions of streamseg and of what it runs on.",
)
def cli() -> None:
    """Stateful video segmentation: export a checkpoint, stream video, calibrate INT8.

    Documentation of a command: streamseg COMMAND --help
    """


cli.params += logging_options()


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a mistake or a file that fails, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    if threading.current_thread() is threading.main_thread():
        # So that drafts are removed; commands that shut down cleanly have handlers of their own.
        signal.signal(signal.SIGTERM, _terminate)
    start_logging()
    try:
        code = cli.main(args=given, prog_name="streamseg", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("streamseg: interrupted", err=True)
        sys.exit(130)
    except (StreamsegError, OSError) as error:
        if "--debug" in given:
            raise
        click.echo(f"streamseg: {_describe(error)}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _describe(error: StreamsegError | OSError) -> str:
    if isinstance(error, StreamsegError):
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    if not place and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = "cannot write the output: "  # what is printed has no name
    return f"{place}{error.strerror or error}"


if __name__ == "__main__":
    run()
