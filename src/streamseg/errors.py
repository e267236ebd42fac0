"""The exceptions that streamseg raises for mistakes a user can mend.

A message names the subject, what was received, what was expected and the next step. The command
line prints it on one line and exits 2; ``--debug`` shows the traceback.
"""


class StreamsegError(Exception):
    """Root of the tree: catch it to catch everything that streamseg raises on purpose."""


class BundleError(StreamsegError):
    """A bundle is damaged, incomplete, or disagrees with its manifest."""


class CheckpointError(StreamsegError):
    """A checkpoint cannot be read, or is not of a model that can be imported."""


class ExportError(StreamsegError):
    """A model cannot be exported as asked."""


class StateMismatch(StreamsegError):
    """State tensors differ in name, shape, dtype or model from what the bundle's table says."""


class FrameMismatch(StreamsegError):
    """A frame is not uint8 ``[height, width, 3]``."""


class BackendError(StreamsegError):
    """A backend is missing, or failed to load or to run a graph."""


class EngineMismatch(BackendError):
    """An engine was built for another machine, library version or graph."""


class PluginNotFound(StreamsegError):
    """The native operator library was asked for and is not there, or is not the one built."""


class SourceError(StreamsegError):
    """A video source cannot be opened, or broke off in the middle."""


class SinkError(StreamsegError):
    """An output cannot be written."""


class ServeError(StreamsegError):
    """The web page cannot be served as asked."""


class DatasetError(StreamsegError):
    """A dataset's tree is missing, incomplete or unreadable."""


class BatchError(StreamsegError):
    """A batch cannot begin or go on: its list, journal or executor is at fault."""


class TrainingError(StreamsegError):
    """A training run cannot start or go on as asked."""
