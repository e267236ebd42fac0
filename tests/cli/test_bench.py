"""``streamseg bench``: what it prints and writes, for a bundle with three graphs."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streamseg.cli.main import cli
from streamseg.runtime.host import OtherWork, processor_name
from tests.runtime.clips import write_clip
from tests.runtime.smoothing import write_smoothing_bundle
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


def bench(*arguments: object) -> dict[str, Any]:
    words = ["bench", *map(str, arguments), "--backend", "onnxruntime", "--json", "-"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def test_record_has_times_by_graph_memory_and_machine(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=7)
    record = bench(bundle, clip, "--frames", 20)
    assert record["source"] == str(clip)
    assert (record["source_size"], record["source_frames"]) == ([48, 64], 7)
    assert (record["size"], record["classes"]) == ([HEIGHT, WIDTH], 3)
    assert record["model"]["family"] == "toy"
    assert record["frames"] == 20
    assert {name: entry["frames"] for name, entry in record["graphs"].items()} == {
        "key": 5,
        "step": 15,
    }
    for entry in (record["graphs"]["step"], {k[:-3]: v for k, v in record.items() if "_ms" in k}):
        assert 0 < entry["median"] <= entry["p95"]
    assert record["fps"] == pytest.approx(1e3 / record["mean_ms"])
    memory = record["memory"]
    # 32-bit maps: a trace, a ring of three, a key.
    assert memory["state"] == 5 * 4 * HEIGHT * WIDTH
    assert memory["process_peak"] == pytest.approx(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.1
    )
    assert record["machine"]["processor"] == processor_name()
    assert record["execution"].startswith("onnxruntime")
    assert any(line.startswith("ONNX Runtime") for line in record["versions"])


def test_without_a_source_a_street_is_drawn(tmp_path: Path) -> None:
    record = bench(write_smoothing_bundle(tmp_path / "smooth", (48, 64)), "--frames", 1)
    assert record["source"] == "synthetic:street?size=48x64"
    assert record["source_size"] == [48, 64]


@pytest.mark.parametrize("cores", [0.0, 1.5])
def test_other_work_is_noted_beside_the_times(
    cores: float, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.runtime.host.LoadMeter.read", lambda _meter: OtherWork(cores, 2))
    clip = write_clip(tmp_path / "clip.mp4", frames=2)
    done = CliRunner().invoke(cli, ["bench", str(bundle), str(clip), "--frames", "1"])
    assert done.exit_code == 0, done.output
    assert ("note: other programs kept 1.5 of 2 processors busy" in done.output) is (cores > 0)
    assert "frames a second" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.mp4",), "no such video: none.mp4"),
        (("synthetic:nothing",), "nothing"),
        (("--seconds", "0"), "0.0"),
        (("--frames", "0"), "0"),
        (("--parallel", "2"), "bench times the steps of one stream; leave --parallel out"),
    ],
)
def test_mistakes_are_reported(arguments: tuple[str, ...], message: str, bundle: Path) -> None:
    done = CliRunner().invoke(cli, ["bench", str(bundle), *arguments])
    assert done.exit_code != 0
    assert message in done.output + str(done.exception)
