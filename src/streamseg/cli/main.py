"""Entry point of the command line: lazy sub-commands, one line per mistake, exit codes."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import threading
from types import FrameType

import click
from rich.console import Console
from rich.logging import RichHandler

from streamseg._version import __version__
from streamseg.errors import StreamsegError
from streamseg.redaction import RedactingFilter

# Sub-command -> (module under streamseg.cli, one-line help). Help stands here so that
# `streamseg --help` imports none of them.
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("doctor", "Tell what this machine has, what is missing, and how to mend it."),
    "export": ("export", "Turn a checkpoint into a bundle that the runtime streams."),
    "import": ("import_onnx", "Turn an ONNX graph with state into a bundle."),
    "models": ("models", "List what can be imported, with sizes and published accuracy."),
    "prototypes": ("prototypes", "Cluster footage into what a CFFM++ bundle attends to."),
    "build": ("build", "Build a bundle into TensorRT engines for this machine."),
    "triton": ("triton", "Write a Triton model repository that streams a bundle."),
    "web": ("web", "Write a static web site that runs a bundle in the browser."),
    "inspect": ("inspect", "Print what a bundle holds: model, sizes, state, graphs, parity."),
    "run": ("run", "Segment a video, a folder of images or a camera."),
    "serve": ("serve", "Show streams on a web page: live picture, state on and off, metrics."),
    "batch": ("batch", "Segment an archive of videos, on processes or a Ray cluster."),
    "train": ("train", "Train a network on clips of a labelled dataset."),
    "eval": ("eval", "Score a bundle or checkpoint on a labelled dataset."),
    "dataset": ("dataset", "Check a dataset's tree; write predictions for VSPW's test server."),
    "compare": ("compare", "Measure how two models drift apart over the same frames."),
    "calibrate": ("calibrate", "Turn a bundle into INT8 with ranges measured on your clips."),
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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the help table without importing the sub-commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamseg")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def cli(debug: bool, verbose: bool) -> None:
    """Stateful video segmentation: export a checkpoint, stream video, calibrate INT8."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    handler = RichHandler(console=Console(stderr=True), show_path=debug, show_time=False)
    handler.addFilter(RedactingFilter())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("streamseg").setLevel(level)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a mistake or a file that fails, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    if threading.current_thread() is threading.main_thread():
        # So that drafts are removed; commands that end in good order have handlers of their own.
        signal.signal(signal.SIGTERM, _terminate)
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
    return f"{place}{error.strerror or error}"


if __name__ == "__main__":
    run()
