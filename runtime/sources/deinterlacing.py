"""Interlaced pictures made whole, by FFmpeg's own filter."""

from __future__ import annotations

from collections.abc import Iterator

import av
import av.error
from av.filter import Graph

# Pictures that are not marked as interlaced pass unchanged.
FILTER = ("bwdif", "mode=send_frame:parity=auto:deint=interlaced")


class Deinterlacer:
    """One picture for each interlaced picture; made again where their size or format changes.

    A picture comes out once the one after it went in, so this adds one frame of delay.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._kind: tuple[object, ...] = ()

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Take a picture; yield those that are finished."""
        kind = (frame.width, frame.height, frame.format.name, frame.time_base)
        if kind != self._kind:
            yield from self.flush()
            self._graph, self._kind = self._make(frame), kind
        assert self._graph is not None
        self._graph.vpush(frame)
        yield from self._pull()

    def flush(self) -> Iterator[av.VideoFrame]:
        """Yield what is left at the end."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._pull()
            self._graph, self._kind = None, ()

    def _make(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base,
        )
        graph.link_nodes(source, graph.add(*FILTER), graph.add("buffersink"))
        graph.configure()
        return graph

    def _pull(self) -> Iterator[av.VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
