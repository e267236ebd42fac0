"""Figures of all streams in Prometheus' exposition format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from streamseg.runtime.loop.stream_metrics import LATENCY_BUCKETS, StreamFigures

Figures = Mapping[str, StreamFigures]


class StreamCollector(Collector):
    """Reads the figures when Prometheus asks; costs nothing in between.

    Args:
        streams: gives the figures of every stream by its name.
        page: gives the figures of the page itself: viewers, encoded, dropped.
    """

    def __init__(
        self, streams: Callable[[], Figures], page: Callable[[], Mapping[str, int]]
    ) -> None:
        self._streams, self._page = streams, page

    def collect(self) -> Iterable[Metric]:
        """Every metric with its samples."""
        streams = self._streams()
        yield GaugeMetricFamily("streamseg_streams", "Streams in the fleet.", value=len(streams))
        yield from self._counts(streams)
        yield from self._rates(streams)
        yield self._latency(streams)
        page = self._page()
        yield GaugeMetricFamily("streamseg_viewers", "Pages that show a stream.", page["viewers"])
        for name, text in (
            ("encoded", "Pictures encoded for the page, once for all viewers."),
            ("dropped", "Pictures skipped for slow viewers."),
        ):
            yield CounterMetricFamily(f"streamseg_page_{name}", text, page[name])

    def _counts(self, streams: Figures) -> Iterable[Metric]:
        frames = CounterMetricFamily("streamseg_frames", "Frames segmented.", labels=["stream"])
        resets = CounterMetricFamily(
            "streamseg_resets", "Resets of the state.", labels=["stream", "cause"]
        )
        events = CounterMetricFamily("streamseg_events", "Events.", labels=["stream", "kind"])
        corrupt = CounterMetricFamily(
            "streamseg_corrupt", "Damaged packets and frames skipped.", labels=["stream"]
        )
        dropped = CounterMetricFamily(
            "streamseg_dropped", "Frames skipped to keep up.", labels=["stream"]
        )
        late = CounterMetricFamily(
            "streamseg_late", "Label maps older than the limit.", labels=["stream"]
        )
        for name, figures in streams.items():
            frames.add_metric([name], figures.frames)
            late.add_metric([name], figures.late)
            corrupt.add_metric([name], figures.corrupt)
            dropped.add_metric([name], figures.dropped)
            for cause, count in sorted(figures.resets.items()):
                resets.add_metric([name, cause], count)
            for kind, count in sorted(figures.events.items()):
                events.add_metric([name, kind], count)
        return frames, corrupt, dropped, late, resets, events

    def _rates(self, streams: Figures) -> Iterable[Metric]:
        fps = GaugeMetricFamily("streamseg_fps", "Label maps a second.", labels=["stream"])
        age = GaugeMetricFamily(
            "streamseg_last_frame_age_seconds", "Time since the last labels.", labels=["stream"]
        )
        for name, figures in streams.items():
            fps.add_metric([name], figures.fps)
            if figures.age is not None:
                age.add_metric([name], figures.age)
        return fps, age

    def _latency(self, streams: Figures) -> Metric:
        family = HistogramMetricFamily(
            "streamseg_latency_seconds", "From a frame's arrival to its labels.", labels=["stream"]
        )
        bounds = [*(str(bound) for bound in LATENCY_BUCKETS), "+Inf"]
        for name, figures in streams.items():
            buckets = list(zip(bounds, figures.buckets, strict=True))
            family.add_metric([name], buckets, figures.latency_sum)
        return family


def expose(collector: StreamCollector) -> bytes:
    """The text that ``/metrics`` answers with."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
