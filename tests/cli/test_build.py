"""``streamseg build --backend openvino`` and options that belong to the other backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.cli.main import run
from streamseg.runtime.stream import open_stream
from tests.conftest import NO_OPENVINO
from tests.runtime.toy import write_toy_bundle


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_toy_bundle(tmp_path / "toy")


@NO_OPENVINO
def test_openvino_keeps_a_file_for_each_graph(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--precision", "fp32", "--threads", "1")
    assert call("build", toy, "--backend", "openvino", *options) == 0
    kept = sorted((tmp_path / "cache/streamseg/openvino").iterdir())
    said = capsys.readouterr().out
    assert kept
    assert all(str(path) in said for path in kept)
    assert "used by --backend openvino with the same --device, --precision and --threads" in said
    open_stream(toy, backend="openvino", precision="fp32", threads=1).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "openvino", "--tf32"], "--tf32 does not apply to --backend openvino"),
        (["--backend", "openvino", "--workspace", "9"], "--workspace does not apply to --backend"),
        (["--device", "CPU"], "--device does not apply to --backend tensorrt"),
        (["--precision", "bf16"], "tensorrt does not build 'bf16'; use one of fp32, fp16, int8"),
    ],
)
def test_options_of_the_other_backend_are_refused(
    toy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call("build", toy, *arguments) == 2
    assert message in capsys.readouterr().err


def test_precision_of_another_backend_is_refused(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("build", toy, "--backend", "openvino", "--precision", "int8") == 2
    assert (
        "openvino does not build 'int8'; use one of auto, fp32, bf16, fp16"
        in capsys.readouterr().err
    )
