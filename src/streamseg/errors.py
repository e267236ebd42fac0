"""The exceptions that streamseg raises for mistakes that a user can fix.

A message names the subject, what was received, what was expected and the next step. The command
line prints it on one line and exits 2; ``--debug`` shows the traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class StreamsegError(Exception):
    """Root of the tree: catch it to catch everything that streamseg raises on purpose."""


class BundleError(StreamsegError):
    """A bundle is damaged, incomplete, or disagrees with its manifest."""


class CheckpointError(StreamsegError):
    """A checkpoint cannot be read, or is not of a model that can be imported."""


class ExportError(StreamsegError):
    """A model cannot be exported this way."""


class StateMismatch(StreamsegError):
    """State tensors differ in name, shape, dtype or model from what the bundle's table says."""


class FrameMismatch(StreamsegError):
    """A frame is not uint8 ``[height, width, 3]``."""


class BackendError(StreamsegError):
    """A backend is missing, or failed to load or to run a graph."""


class EngineMismatch(BackendError):
    """An engine was built for another machine, library version or graph."""


class PluginNotFound(StreamsegError):
    """The native operator library was requested and is missing, or is not the one built."""


class SourceError(StreamsegError):
    """A video source cannot be opened, or failed midway."""


class SinkError(StreamsegError):
    """An output cannot be written."""


class ServeError(StreamsegError):
    """The web page cannot be served this way."""


class DatasetError(StreamsegError):
    """A dataset's tree is missing, incomplete or unreadable."""


class BatchError(StreamsegError):
    """A batch cannot begin or continue: its list, journal or executor is at fault."""


class TrainingError(StreamsegError):
    """A training run cannot start or continue."""


@contextmanager
def raised_as(failure: type[StreamsegError], subject: str) -> Iterator[None]:
    """Turn whatever a parser raises into ``failure``: the single boundary of a kind of input.

    Parsers raise far more than they document, such as ``RecursionError`` for nested brackets or
    ``OverflowError`` for long numbers.

    Args:
        failure: what callers expect.
        subject: file or address that is read, for the message.
    Raises:
        failure: anything was raised that is not a StreamsegError.
    """
    try:
        yield
    except StreamsegError:
        raise
    except Exception as error:
        raise failure(f"{subject} cannot be read: {_describe(error)}") from error


def domain_error(
    error: BaseException, failure: type[StreamsegError], where: str = ""
) -> BaseException:
    """An exception of any library as one of ours, with the exception as its cause.

    Args:
        error: ours, and requests to exit such as KeyboardInterrupt, come back as they are.
        failure: what to turn the others into.
        where: begins the message.
    """
    if isinstance(error, StreamsegError) or not isinstance(error, Exception):
        return error
    told = failure(f"{where}{_describe(error)}")
    told.__cause__ = error
    return told


def _describe(error: Exception) -> str:
    """The kind of an error and the first line of its text, in characters that can be printed."""
    text = (str(error).splitlines() or [""])[0][:300]
    shown = "".join(c if c.isprintable() else " " for c in text).strip()
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
