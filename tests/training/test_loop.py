from __future__ import annotations

import json
import math
import os
import random
import signal
from dataclasses import replace

import pytest
import torch

from streamseg.errors import CheckpointError, TrainingError
from streamseg.training.history import read_history
from streamseg.training.loop import Trainer, build_accelerator, train
from streamseg.training.networks import ClipNetwork
from streamseg.training.saving import RunFolder, save_weights
from tests.runtime.clips import small_disk
from tests.training.small import (
    CONFIG,
    OPTIONS,
    ArrayClip,
    assert_same_weights,
    make_dataset,
    make_network,
    run,
)


def test_loss_falls_and_is_logged(tmp_path):
    config = replace(CONFIG, steps=40, lr=2e-3, clips=replace(CONFIG.clips, scale=(1.0, 1.0)))
    report = run(tmp_path / "run", config=config)
    assert (report.step, report.signal) == (40, None)
    lines = read_history(tmp_path / "run" / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 41))
    first = sum(line["temporal"] for line in lines[:5])
    last = sum(line["temporal"] for line in lines[-5:])
    assert last < 0.6 * first
    assert lines[0]["lr"] == pytest.approx(1e-3)
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_run_shorter_than_the_log_interval_logs_its_last_step(tmp_path):
    report = run(tmp_path / "run", log_every=10)
    assert [line["step"] for line in read_history(tmp_path / "run" / "log.jsonl")] == [6]
    assert (tmp_path / "run" / "curves.png").is_file()
    (tmp_path / "run" / "log.jsonl").unlink()
    report.weights.unlink()
    again = run(tmp_path / "run", resume=True)
    assert (again.step, again.weights.is_file()) == (6, True)


def test_same_configuration_gives_same_weights_and_another_seed_others(tmp_path):
    config = replace(CONFIG, steps=2)
    runs = [run(tmp_path / name, config=config) for name in "ab"]
    assert_same_weights(runs[0].weights, runs[1].weights)
    other = run(tmp_path / "c", config=replace(config, seed=4))
    with pytest.raises(AssertionError):
        assert_same_weights(runs[0].weights, other.weights)


class KillingClip(ArrayClip):
    """Sends a signal to this process at the n-th read."""

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if len(self.reads) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return found


@pytest.mark.parametrize("seed", range(3))
def test_run_stopped_at_a_random_step_resumes_to_the_same_weights(tmp_path, seed):
    whole = run(tmp_path / "whole", dataset=make_dataset(ArrayClip("a", frames=9)))
    clip = KillingClip("a", frames=9)
    # Two clips of three frames a step.
    object.__setattr__(clip, "at", random.Random(seed).randrange(1, 30))
    stopped = run(tmp_path / "cut", dataset=make_dataset(clip))
    assert stopped.signal == signal.SIGTERM
    assert stopped.weights is None
    assert 0 < stopped.step < CONFIG.steps
    plain = make_dataset(ArrayClip("a", frames=9))
    resumed = run(tmp_path / "cut", dataset=plain, resume=True)
    assert resumed.step == CONFIG.steps
    assert_same_weights(whole.weights, resumed.weights)
    logs = [read_history(tmp_path / name / "log.jsonl") for name in ("whole", "cut")]
    losses = [[(line["step"], line["loss"]) for line in log] for log in logs]
    assert losses[0] == losses[1]


def test_run_that_stops_early_leaves_weights_and_can_resume(tmp_path):
    whole = run(tmp_path / "whole")
    early = run(tmp_path / "early", stop_at=3)
    assert (early.step, early.signal) == (3, None)
    with pytest.raises(AssertionError):
        assert_same_weights(whole.weights, early.weights)
    kept = early.weights.rename(tmp_path / "kept.safetensors")
    # Of a run that is there already, or beyond, it writes the weights and trains no further.
    again = run(tmp_path / "early", stop_at=2, resume=True)
    assert again.step == 3
    assert_same_weights(kept, again.weights)
    on = run(tmp_path / "early", resume=True)
    assert on.step == CONFIG.steps
    assert_same_weights(whole.weights, on.weights)


def test_resuming_falls_back_to_the_last_checkpoint_after_a_crash(tmp_path):
    class CrashingClip(ArrayClip):
        def __getitem__(self, index):
            if len(self.reads) == 28:
                raise MemoryError
            return super().__getitem__(index)

    with pytest.raises(MemoryError):
        run(tmp_path / "cut", dataset=make_dataset(CrashingClip("a", frames=9)))
    assert RunFolder(tmp_path / "cut").load()["step"] == 4
    plain = make_dataset(ArrayClip("a", frames=9))
    resumed = run(tmp_path / "cut", dataset=plain, resume=True)
    whole = run(tmp_path / "whole", dataset=plain)
    assert_same_weights(whole.weights, resumed.weights)


def test_interrupted_checkpoint_leaves_the_previous_one(tmp_path, monkeypatch):
    save = torch.save

    def failing(content, path):
        save(content, path)
        if content["step"] == 4:
            path.write_bytes(path.read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert RunFolder(tmp_path / "run").load()["step"] == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_reduced_precision_trains_and_resumes(tmp_path, precision):
    config = replace(CONFIG, steps=4, precision=precision)
    network = make_network()
    trainer = Trainer(network, config, build_accelerator(config, "cpu"))
    first = [float(trainer.advance(_batch(i)).total) for i in range(2)]
    state = {**trainer.state()}
    torch.save(state, tmp_path / "state.pt")
    ahead = float(trainer.advance(_batch(2)).total)
    other = Trainer(make_network(), config, build_accelerator(config, "cpu"))
    other.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert float(other.advance(_batch(2)).total) == ahead
    assert all(math.isfinite(loss) for loss in first)
    for one, two in zip(
        network.state_dict().values(), other.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)


def _batch(step):
    from streamseg.training.clip_sampler import ClipSampler

    return ClipSampler(make_dataset(), CONFIG.clips, seed=0).batch(step)


def test_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path, monkeypatch):
    forward = ClipNetwork.forward
    calls = []

    def poisoned(self, *given):
        calls.append(1)
        scores, auxiliary = forward(self, *given)
        return (scores * math.nan, auxiliary) if len(calls) == 4 else (scores, auxiliary)

    monkeypatch.setattr(ClipNetwork, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"step 3: the loss is nan.*of step 2. Lower --lr"):
        run(tmp_path / "run")
    kept = RunFolder(tmp_path / "run").load()
    assert kept["step"] == 2
    assert all(value.isfinite().all() for value in kept["network"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    folder = RunFolder(tmp_path)
    good = {"step": 1, "network": {"a": torch.ones(2)}}
    folder.save(good)
    with pytest.raises(TrainingError, match=r"step 2: a is not finite.*of step 1"):
        folder.save({"step": 2, "network": {"a": torch.tensor([1.0, math.inf])}})
    assert folder.load()["step"] == 1


def test_full_disk_keeps_the_checkpoint_before(tmp_path):
    with small_disk(tmp_path / "disk", 100) as disk:
        folder = RunFolder(disk)
        folder.save({"step": 1, "network": {"a": torch.ones(8_000)}})
        words = r"cannot write .*last\.pt: .*MiB free.* place\. The last good .* of step 1\."
        with pytest.raises(TrainingError, match=words):
            folder.save({"step": 2, "network": {"a": torch.ones(40_000)}})
        assert [path.name for path in disk.iterdir()] == ["last.pt"]
        assert folder.load()["step"] == 1
        network = make_network()
        (disk / "weights.safetensors").write_text("before")
        with pytest.raises(CheckpointError, match=r"cannot write .*weights\.safetensors: No space"):
            save_weights(network, folder.weights, license="Apache-2.0", size=(64, 64))
        assert folder.weights.read_text() == "before"


def test_folder_of_another_run_is_left_alone(tmp_path):
    config = replace(CONFIG, steps=1)
    run(tmp_path / "run", config=config)
    with pytest.raises(TrainingError, match=r"holds a run already\. Resume it with --resume"):
        run(tmp_path / "run", config=config)
    with pytest.raises(TrainingError, match=r"other settings: steps: 1 and 2"):
        run(tmp_path / "run", config=replace(config, steps=2), resume=True)
    with pytest.raises(TrainingError, match="holds no run to resume"):
        run(tmp_path / "empty", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_folder_of_a_run_without_a_checkpoint_is_reused(tmp_path, resume):
    long = replace(CONFIG, clips=replace(CONFIG.clips, offsets=(-9, 0)))
    with pytest.raises(TrainingError, match="Choose shorter --offsets"):
        run(tmp_path / "run", config=long)
    assert run(tmp_path / "run", resume=resume).step == CONFIG.steps
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["clips"]["offsets"] == [-2, -1, 0]


def test_record_names_what_ran(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.start(CONFIG.as_json(), resume=False, command_line=["train", "--seed", "3"])
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["made_by"]["command"] == "train --seed 3"
    assert record["made_by"]["torch"] == torch.__version__
    assert record["seed"] == 3


def test_batch_must_divide_among_processes(tmp_path):
    class TwoProcesses:
        num_processes = 2

    config = replace(CONFIG, clips=replace(CONFIG.clips, batch=3))
    with pytest.raises(TrainingError, match="multiple of the 2 processes"):
        train(
            make_network(),
            make_dataset(),
            config,
            RunFolder(tmp_path),
            OPTIONS,
            accelerator=TwoProcesses(),
        )


def test_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingError, match="sees no GPU"):
        build_accelerator(CONFIG, "cuda")
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        build_accelerator(replace(CONFIG, precision="fp16"), "cpu")
