"""What each use of streamseg needs on a machine, and whether it is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["yes", "no", "optional"]


@dataclass(frozen=True)
class Finding:
    """One thing looked for.

    Attributes:
        subject: what.
        ok: it is there and usable.
        found: version or state, or why it is not usable.
        fix: the command or step that fixes it; empty where nothing is wrong.
    """

    subject: str
    ok: bool
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Purpose:
    """A use of streamseg.

    Attributes:
        text: what it is, for people.
        needs: groups of subjects; of each group one must be there.
        helps: subject -> what happens without it.
        shows: further subjects that say how well it runs.
    """

    text: str
    needs: tuple[tuple[str, ...], ...]
    helps: Mapping[str, str] = field(default_factory=dict)
    shows: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everything to look at for it, once each."""
        needed = (subject for group in self.needs for subject in group)
        return tuple(dict.fromkeys((*needed, *self.helps, *self.shows)))


_SLOWER = "a slower lowering to standard operators runs"
_CPU = ("ONNX Runtime", "OpenVINO")
_TORCH = (("PyTorch",), ("transformers",), ("ONNX",), ("onnxscript",), ("ONNX Runtime",))
_BOARD = ("JetPack", "power mode", "GPU clock", "throttling", "environment")
BACKENDS = ("cpu", "openvino", "cuda", "tensorrt")
PURPOSES = {
    "cpu": Purpose(
        "run bundles on the CPU",
        (("ONNX Runtime",), ("instruction set",)),
        {"operator library": _SLOWER},
    ),
    "openvino": Purpose(
        "run bundles with OpenVINO",
        (("OpenVINO",), ("OpenVINO extension", "ONNX"), ("instruction set",)),
        {"OpenVINO extension": _SLOWER},
    ),
    "cuda": Purpose(
        "run bundles with ONNX Runtime on a GPU",
        (("GPU",), ("ONNX Runtime",), ("ONNX Runtime's CUDA provider",), ("cuda-python",)),
        {"CUDA operators of ONNX Runtime": _SLOWER},
        _BOARD,
    ),
    "tensorrt": Purpose(
        "build and run TensorRT engines",
        (("GPU",), ("cuda-python",), ("TensorRT",)),
        {
            "TensorRT plugins": _SLOWER,
            "ONNX": "engines can be run, not built",
            "ONNX Runtime": "engines can be run, not built",
            "CUDA toolkit": "our libraries cannot be compiled here",
        },
        _BOARD,
    ),
    "export": Purpose("export and import checkpoints", _TORCH),
    "train": Purpose(
        "train networks",
        (("PyTorch",), ("transformers",), ("accelerate",), ("SciPy",)),
        {"matplotlib": "no plots are drawn"},
    ),
    "eval": Purpose(
        "score bundles on datasets",
        (_CPU,),
        {
            "matplotlib": "no plots are drawn",
            "PyTorch": "bundles are scored, not checkpoints",
            "transformers": "bundles are scored, not checkpoints",
        },
    ),
    "serve": Purpose("show streams on a web page", (_CPU, ("aiohttp",), ("prometheus-client",))),
    "window": Purpose("show streams in a window", (_CPU, ("pygame-ce",), ("display",))),
    "gstreamer": Purpose("read gst: sources and Jetson cameras", (_CPU, ("GStreamer",))),
    "batch": Purpose(
        "segment archives of videos",
        (_CPU, ("fsspec",), ("pyarrow",)),
        {"Ray": "processes of this machine are used, no cluster"},
    ),
    "mqtt": Purpose("publish areas and events to a broker", (_CPU, ("paho-mqtt",))),
}


@dataclass(frozen=True)
class Readiness:
    """What findings mean for what was asked.

    Attributes:
        asked: purposes that were asked for.
        missing: purpose -> groups of which nothing is there; empty where it is ready.
        weaker: purpose that is ready -> what happens for lack of something.
        marks: subject -> ``no`` where a purpose that was asked for fails by it.
    """

    asked: tuple[str, ...]
    missing: Mapping[str, tuple[tuple[str, ...], ...]]
    weaker: Mapping[str, tuple[str, ...]]
    marks: Mapping[str, Mark]

    def is_ready(self, purpose: str) -> bool:
        """Whether nothing is missing for a purpose that was asked for."""
        return not self.missing[purpose]

    @property
    def ready(self) -> bool:
        """Of a single purpose: it is ready. Of all: bundles can be run by some backend."""
        if len(self.asked) == 1:
            return self.is_ready(self.asked[0])
        return any(self.is_ready(name) for name in BACKENDS if name in self.asked)


def judge(findings: Sequence[Finding], asked: Collection[str]) -> Readiness:
    """Judge findings.

    Args:
        findings: at least those of the subjects of the purposes.
        asked: names of ``PURPOSES``.
    """
    there = {entry.subject for entry in findings if entry.ok}
    missing = {
        name: tuple(group for group in PURPOSES[name].needs if not there & set(group))
        for name in asked
    }
    weaker = {
        name: tuple(
            f"without {subject}, {effect}"
            for subject, effect in PURPOSES[name].helps.items()
            if subject not in there
        )
        for name in asked
        if not missing[name]
    }
    failing = {subject for groups in missing.values() for group in groups for subject in group}
    marks: dict[str, Mark] = {
        entry.subject: "yes" if entry.ok else "no" if entry.subject in failing else "optional"
        for entry in findings
    }
    return Readiness(tuple(asked), missing, weaker, marks)


def describe_purpose(name: str, readiness: Readiness) -> str:
    """One line: ``cpu: ready``, or what it needs."""
    text = f"{name} ({PURPOSES[name].text})"
    if not readiness.is_ready(name):
        needs = ", ".join(" or ".join(group) for group in readiness.missing[name])
        return f"{text}: not ready, needs {needs}"
    return "; ".join([f"{text}: ready", *readiness.weaker[name]])
