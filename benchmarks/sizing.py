"""The number of streams that a machine can run, and its bottleneck, from measured figures.

    python benchmarks/sizing.py --clip VIDEO
    python benchmarks/sizing.py --clip VIDEO --gpu-ms MS --gpu NAME   # with a step that you timed

Reads benchmarks/results/{frame,models}.json, the state table of each model for its state, and a
real clip for the traffic of a camera. The server is an assumption, set in the options. Writes
benchmarks/results/sizing.{json,md} and the table of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
from measuring import RESULTS, describe_machine, write_results

from streamseg.export.catalogue import measure_cost

DOCS = RESULTS.parents[1] / "docs" / "scale.md"
MARKS = ("<!-- sizing: from here -->", "<!-- sizing: to here -->")
STREAMS = (1, 10, 100, 1_000, 10_000)
SERVED = ("segformer/mit_b0", "segformer/mit_b1", "tv3s/mit_b0", "tv3s/mit_b1")


@dataclass(frozen=True)
class Step:
    """A measured step.

    Attributes:
        model: name in the catalogue.
        height, width: of the frame.
        core_seconds: of a frame; time multiplied by the number of busy threads.
        state_bytes: of one stream, one copy.
        source: file of the measurement.
    """

    model: str
    height: int
    width: int
    core_seconds: float
    state_bytes: int
    source: str

    @property
    def frame_bytes(self) -> int:
        """Of one raw frame to the server; its labels are a third."""
        return self.height * self.width * 3


def read_steps() -> list[Step]:
    """Steps of models that streamseg serves, from the result files."""
    models = json.loads((RESULTS / "models.json").read_text())
    height, width = models["size"]
    threads = models["machine"]["threads"]
    steps = [
        Step(
            name,
            height,
            width,
            models["systems"][name]["ms_a_frame"] / 1e3 * threads,
            models["systems"][name]["state_bytes"],
            "models.json",
        )
        for name in SERVED
    ]
    frame = json.loads((RESULTS / "frame.json").read_text())
    tv3s = next(work for work in frame["works"] if work["name"] == "tv3s-b1")
    height, width = tv3s["size"]
    unit = tv3s["times"]["ONNX Runtime, float32"]["median_ms"]
    seconds = unit / 1e3 * frame["machine"]["threads"]
    state = measure_cost("tv3s/mit_b1", (height, width), classes=19).state_bytes
    return [*steps, Step("tv3s/mit_b1", height, width, seconds, state, "frame.json")]


def read_clip(path: Path) -> dict[str, Any]:
    """What a camera sends: bytes of a real H.264 clip, by frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        sizes = [packet.size for packet in container.demux(stream) if packet.size]
        rate = float(stream.average_rate or 25)
        size = f"{stream.height}x{stream.width}"
    return {
        "name": path.name,
        "size": size,
        "fps": rate,
        "bytes_a_frame": sum(sizes) / len(sizes),
    }


@dataclass(frozen=True)
class Server:
    """An assumed machine, not a measured one."""

    cores: int
    memory_gb: float
    network_gbit: float


def plan(
    step: Step, streams: int, fps: float, clip: dict[str, Any], server: Server
) -> dict[str, Any]:
    """The needs of this many streams, and the number of servers for each resource."""
    frames = streams * fps
    # Two copies of the state: the step reads one and writes the other.
    memory = 2 * step.state_bytes * streams
    raw = frames * step.frame_bytes * 4 / 3
    # Recorded H.264 keeps its rate whether or not every frame is segmented.
    coded = streams * clip["fps"] * clip["bytes_a_frame"]
    needs = {
        "cores": frames * step.core_seconds,
        "state_gb": memory / 1e9,
        "raw_gbit": raw * 8 / 1e9,
        "coded_gbit": coded * 8 / 1e9,
    }
    servers = {
        "computing": needs["cores"] / server.cores,
        "state memory": needs["state_gb"] / server.memory_gb,
        "network, raw frames": needs["raw_gbit"] / server.network_gbit,
    }
    return {"streams": streams, **needs, "servers": servers}


def first_limit(row: dict[str, Any]) -> str:
    """The resource that needs the most servers."""
    return max(row["servers"], key=row["servers"].__getitem__)


def format_number(value: float) -> str:
    """Three digits, without exponents."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 else "< 0.01"


def network_line(step: Step, server: Server) -> str:
    """The point from which the network, and not computing, is the limit."""
    frames = server.network_gbit * 1e9 / 8 / (step.frame_bytes * 4 / 3)
    return (
        f"{server.network_gbit:g} Gbit/s carry {frames:,.0f} raw frames and label maps of this "
        f"size a second: GPUs of one server that together step faster than "
        f"{1e3 / frames:.2f} ms a frame wait for the network, unless they decode H.264 themselves."
    )


def gpu_rows(
    step: Step, arguments: argparse.Namespace, clip: dict[str, Any], server: Server
) -> list[str]:
    """The same for a step on a GPU, if one was timed."""
    if arguments.gpu_ms is None:
        return [
            "Streams per GPU: no result file here holds a step timed on a GPU, so there is no row; "
            "`--gpu-ms MILLISECONDS --gpu NAME` computes it from yours."
        ]
    streams = 1e3 / arguments.gpu_ms / arguments.fps
    row = plan(step, max(1, int(streams)), arguments.fps, clip, server)
    return [
        f"{arguments.gpu}, {arguments.gpu_ms} ms a step as given on the command line: "
        f"{streams:.0f} streams of {arguments.fps:g} fps a GPU, {row['state_gb']:.2f} GB of state, "
        f"{row['raw_gbit']:.2f} Gbit/s of raw frames and labels."
    ]


def format_table(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    """Streams per core, then one model up to 10,000 streams."""
    fps, clip, server = arguments.fps, result["clip"], Server(**result["server"])
    lines = [
        f"At {fps:g} frames a second a stream; steps measured on "
        f"{result['processor']}; camera traffic from {clip['name']} ({clip['size']}, "
        f"{clip['fps']:g} fps): "
        f"{clip['fps'] * clip['bytes_a_frame'] * 8 / 1e6:.2f} Mbit/s of H.264.",
        "",
        "| model | frame | core-seconds a frame | streams a core | state a stream, MB, two copies "
        "| raw frames and labels a stream, Mbit/s | from |",
        "|---|---|---|---|---|---|---|",
    ]
    steps = [Step(**entry) for entry in result["steps"]]
    for step in steps:
        row = plan(step, 1, fps, clip, server)
        lines.append(
            f"| {step.model} | {step.height}x{step.width} | {step.core_seconds:.2f} | "
            f"{1 / row['cores']:.2f} | {1e3 * row['state_gb']:.1f} | {1e3 * row['raw_gbit']:.0f} | "
            f"{step.source} |"
        )
    chosen = next(step for step in steps if step.model == arguments.model)
    lines += [
        "",
        f"{chosen.model} at {chosen.height}x{chosen.width}; servers of {server.cores} cores, "
        f"{server.memory_gb:g} GB and {server.network_gbit:g} Gbit/s (assumed), by what limits:",
        "",
        "| streams | cores | state, GB | raw, Gbit/s | H.264, Gbit/s | servers: computing | memory "
        "| network, raw | breaks first |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["plans"]:
        needs = [row[name] for name in ("cores", "state_gb", "raw_gbit", "coded_gbit")]
        shown = [format_number(value) for value in (*needs, *row["servers"].values())]
        lines.append(f"| {row['streams']:,} | {' | '.join(shown)} | {first_limit(row)} |")
    lines += ["", network_line(chosen, server), "", *gpu_rows(chosen, arguments, clip, server)]
    return "\n".join(lines) + "\n"


def write_docs(table: str) -> None:
    """Put the table between the marks in docs/scale.md."""
    text = DOCS.read_text()
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise SystemExit(f"{DOCS} has lost its marks {MARKS}")
    DOCS.write_text(f"{before}{mark}\n{table}{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, required=True, help="H.264 of a real camera")
    parser.add_argument("--model", default="tv3s/mit_b0", choices=SERVED)
    parser.add_argument("--fps", type=float, default=5.0, help="frames segmented a second")
    parser.add_argument("--cores", type=int, default=64, help="of the assumed server")
    parser.add_argument("--memory-gb", type=float, default=256, help="of the assumed server")
    parser.add_argument("--network-gbit", type=float, default=25, help="of the assumed server")
    parser.add_argument("--gpu-ms", type=float, help="step of --model that you timed on a GPU")
    parser.add_argument("--gpu", default="the GPU", help="its name")
    arguments = parser.parse_args()
    steps, clip = read_steps(), read_clip(arguments.clip)
    server = Server(arguments.cores, arguments.memory_gb, arguments.network_gbit)
    chosen = next(step for step in steps if step.model == arguments.model)
    plans = [plan(chosen, streams, arguments.fps, clip, server) for streams in STREAMS]
    result = {
        "processor": " and ".join(
            f"{json.loads((RESULTS / name).read_text())['machine']['processor']} ({name})"
            for name in dict.fromkeys(step.source for step in steps)
        ),
        "computed_on": describe_machine(1),
        "fps": arguments.fps,
        "clip": clip,
        "server": asdict(server),
        "steps": [asdict(step) for step in steps],
        "model": arguments.model,
        "plans": plans,
    }
    table = format_table(result, arguments)
    write_results("sizing", result, table)
    write_docs(table)


if __name__ == "__main__":
    main()
