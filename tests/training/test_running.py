"""The command in this process: options, class weights, cache, starting weights, mistakes."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from safetensors import safe_open

from streamseg.cli.main import run
from streamseg.export import load_checkpoint
from streamseg.training.config import TrainConfig
from tests.evaluation.trees import write_image
from tests.training.small import COMMAND, assert_same_weights


def train(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        run(["train", *COMMAND, "--steps", "2", *_window(arguments), *map(str, arguments)])
    return int(end.value.code or 0)


def _window(arguments: tuple[str, ...]) -> tuple[str, ...]:
    return () if "segformer" in arguments else ("--set", "window=4", "--set", "shift=2")


def read_config(folder) -> TrainConfig:
    content = json.loads((folder / "config.json").read_text())
    names = TrainConfig.__dataclass_fields__
    return TrainConfig.from_json({k: v for k, v in content.items() if k in names})


def test_command_writes_files_that_the_other_commands_read(tmp_path, capsys):
    out = tmp_path / "run"
    assert train("-o", out, "--half", "--class-weights", "log", "--cache", tmp_path / "c") == 0
    assert "after 2 steps" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "curves.png",
        "last.pt",
        "log.jsonl",
        "weights.safetensors",
    }
    model = load_checkpoint(out / "weights.safetensors")
    assert model.classes[11].name == "person"
    assert model.origin.license == "Apache-2.0"  # drawn scenes, nothing else
    with safe_open(out / "weights.safetensors", "pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16, torch.int64}
    config = read_config(out)
    assert config.clips.offsets == (-2, -1, 0)
    weights = config.class_weights
    assert weights is not None
    assert len(weights) == 19
    assert weights[0] < weights[5]  # road is common, poles are rare
    assert weights[14] == pytest.approx(1 / 0.0953, rel=1e-2)  # no trucks: 1 / ln 1.1


def test_single_frames_then_clips(tmp_path, caplog):
    frames, clips = tmp_path / "frames", tmp_path / "clips"
    assert train("-o", frames, "--model", "segformer", "--offsets", "0") == 0
    first = frames / "weights.safetensors"
    assert load_checkpoint(first).family == "segformer"
    assert not caplog.messages
    assert train("-o", clips, "--init", first, "--supervise", "all") == 0
    assert load_checkpoint(clips / "weights.safetensors").family == "tv3s"
    (message,) = caplog.messages
    assert "which keep their seeded weights: decode_head.vs.*" in message


def test_interrupted_cache_or_resume_gives_the_same_weights(tmp_path):
    assert train("-o", tmp_path / "a") == 0
    assert train("-o", tmp_path / "b", "--cache", tmp_path / "c", "--workers", "1") == 0
    assert_same_weights(*(tmp_path / name / "weights.safetensors" for name in "ab"))
    assert train("--resume", tmp_path / "a") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--offsets=-9,-6,-3,0",), "9 frames before it"),
        (("--offsets", "soon"), "expected numbers"),
        (("--scale", "big"), "expected LOW-HIGH"),
        (("--set", "offsets=-1"), "tv3s has no setting 'offsets'"),
        (("--set", "std=0"), "std is 0 in --set, expected three numbers"),
        (("--shift", "3"), "--shift was removed: write --set shift=VALUE"),
        (("--dataset", "synthetic:fog"), "no preset"),
        (("--encoder", "vgg"), "'vgg' is not one of 'mit_b0'"),
        (("--class-weights", "none.json"), "JSON file with a list of numbers"),
        (("--init", "none.safetensors"), "no checkpoint at none.safetensors"),
        (("--encoder-weights", "none.pth"), "no checkpoint at none.pth"),
        (("--init", "a", "--encoder-weights", "b"), "leave out --encoder-weights"),
        (("--resume", "other"), "expected --out FOLDER for a new run, or --resume FOLDER"),
        (("--resume",), "requires an argument"),
        (("--precision", "fp16"), "needs a GPU"),
    ],
)
def test_mistakes_end_with_one_message(tmp_path, capsys, arguments, words):
    assert train("-o", tmp_path / "run", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_missing_package_is_named_before_anything_runs(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name)
    )
    assert train("-o", tmp_path / "run") == 2
    assert "needs accelerate. Run: pip install -e " in capsys.readouterr().err


def test_footage_without_labels_is_refused(tmp_path, capsys):
    write_image(tmp_path / "video" / "0.png", 0, (32, 64))
    assert train("-o", tmp_path / "run", "--dataset", f"footage:{tmp_path}") == 2
    assert "footage has no labels" in capsys.readouterr().err


def test_class_weights_of_the_wrong_length_are_refused(tmp_path, capsys):
    (tmp_path / "w.json").write_text("[1, 2, 3]")
    assert train("-o", tmp_path / "run", "--class-weights", tmp_path / "w.json") == 2
    assert "3 numbers, expected 19" in capsys.readouterr().err
