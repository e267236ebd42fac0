"""SegFormer, CFFM, CFFM++ and MRCFA against the fixtures: PyTorch, export, streams, state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import streamseg
from streamseg.errors import CheckpointError, ExportError, StateMismatch
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.torch_segmenter import CheckpointSegmenter
from streamseg.export import StepModel, export_bundle, load_checkpoint, save_checkpoint
from streamseg.export.checkpoint import published_weights
from streamseg.export.models.cffm import CFFM, CFFMConfig, CFFMPlus
from streamseg.export.models.focal import token_table
from streamseg.export.models.mit import MIT_PRESETS
from streamseg.export.models.mrcfa import MRCFA, ONE_LAYER, AffinityStage, MRCFAConfig
from streamseg.export.models.segformer import SegFormer, SegFormerConfig, infer_segformer
from streamseg.export.parity import moving_pattern
from streamseg.export.torch_replay import Replay
from streamseg.runtime.bundle.manifest import Manifest, parse_manifest
from tests.conftest import CPU_OPENINGS

from .golden import Golden, read_golden

FIXTURES = ("cffm_b0_depth2", "cffmpp_b0", "mrcfa_b0")
SIZE = (96, 128)
TORCH_LIMIT = 1e-4
BUNDLE_LIMIT = 5e-4
B0, B1 = MIT_PRESETS["mit_b0"], MIT_PRESETS["mit_b1"]


def given(golden: Golden) -> dict[str, torch.Tensor]:
    centers = golden.arrays.get("centers")
    return {} if centers is None else {"prototypes": torch.from_numpy(centers)}


@pytest.fixture(scope="module", params=FIXTURES)
def case(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    golden = read_golden(shared, request.param)
    path = golden.save_checkpoint(tmp_path_factory.mktemp(request.param) / "model.pth")
    return golden, load_checkpoint(path), path


@pytest.fixture(scope="module")
def bundle(case, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    golden, model, _ = case
    path = tmp_path_factory.mktemp(model.family) / "bundle"
    export_bundle(model, path, size=SIZE, logits=True)
    return golden, path


def errors(model: StepModel, golden: Golden) -> list[float]:
    replay = Replay(model, SIZE, given=given(golden))
    with torch.no_grad():
        return [
            float(np.abs(replay.scores(torch.from_numpy(frame)[None])[0].numpy() - want).max())
            for frame, want in zip(golden.frames, golden.arrays["logits"], strict=True)
        ]


@pytest.mark.data
def test_scores_match_at_every_frame(case) -> None:  # type: ignore[no-untyped-def]
    golden, model, _ = case
    assert max(errors(model, golden)) < TORCH_LIMIT


@pytest.mark.data
def test_folded_model_matches_too(case) -> None:  # type: ignore[no-untyped-def]
    golden, model, _ = case
    assert max(errors(model.fold(), golden)) < TORCH_LIMIT


@pytest.mark.data
def test_checkpoint_survives_a_round_trip(case, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _golden, model, _ = case
    save_checkpoint(model, tmp_path / "again.safetensors")
    again = load_checkpoint(tmp_path / "again.safetensors")
    assert again.describe() == model.describe()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.data
@pytest.mark.parametrize("opening", CPU_OPENINGS[::2])
def test_bundle_matches_and_resets_through_the_runtime(bundle, opening) -> None:  # type: ignore[no-untyped-def]
    golden, path = bundle
    with streamseg.open(path, threads=1, **opening) as stream:
        for name, tensor in given(golden).items():
            stream.give(name, tensor.numpy())
        for _ in range(2):
            compare(stream, golden)
            stream.reset()


def compare(stream: streamseg.Stream, golden: Golden) -> None:
    for t, frame in enumerate(golden.frames):
        result = stream.step(frame)
        assert result.logits is not None
        full = result.logits
        want = torch.nn.functional.interpolate(
            torch.from_numpy(golden.arrays["logits"][t])[None], size=SIZE, mode="bilinear"
        )[0].numpy()
        assert np.abs(full - want).max() < BUNDLE_LIMIT, t
        top = np.sort(want, axis=0)
        clear = top[-1] - top[-2] > BUNDLE_LIMIT
        assert clear.mean() > 0.99
        assert np.array_equal(result.labels[clear], golden.arrays["pred"][t][clear])


@pytest.mark.data
def test_snapshot_continues_exactly_amid_the_warm_up(bundle) -> None:  # type: ignore[no-untyped-def]
    golden, path = bundle
    with streamseg.open(path, native=False, threads=1) as stream:
        for name, tensor in given(golden).items():
            stream.give(name, tensor.numpy())
        for frame in golden.frames[:5]:
            stream.step(frame)
        saved = stream.snapshot()
        first = [np.copy(stream.step(frame).logits) for frame in golden.frames[5:]]
        stream.reset()
        stream.restore(saved)
        again = [np.copy(stream.step(frame).logits) for frame in golden.frames[5:]]
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.data
def test_checkpoints_are_evaluated_by_their_schedule(case) -> None:  # type: ignore[no-untyped-def]
    golden, _, path = case
    if given(golden):
        with pytest.raises(StateMismatch, match="streamseg prototypes"):
            CheckpointSegmenter(path, SegmenterOptions(), SIZE)
        return
    segmenter = CheckpointSegmenter(path, SegmenterOptions(), SIZE)
    for _ in range(2):
        segmenter.reset()
        for t, frame in enumerate(golden.frames):
            found = segmenter.step(frame)
            equal = (found.labels == golden.arrays["pred"][t]).mean()
            assert equal > 0.999, (t, equal)
    assert segmenter.state().keys() == {
        spec.name for spec in load_checkpoint(path).state_spec(SIZE)
    }


def rewritten(path: Path, folder: Path, swap: tuple[int, int, int]) -> Path:
    """A copy of the bundle whose steady row reads ages in another order."""
    target = folder / "changed"
    target.mkdir()
    for file in path.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    manifest: Manifest = parse_manifest((path / "manifest.json").read_text())
    last = manifest.schedule[-1]
    row = replace(last, ages=dict.fromkeys(last.ages, swap))
    changed = replace(manifest, schedule=(*manifest.schedule[:-1], row))
    (target / "manifest.json").write_text(changed.to_json())
    return target


@pytest.mark.data
@pytest.mark.parametrize(
    ("swap", "noticed"),
    [((6, 9, 3), True), ((3, 6, 9), True), ((9, 6, 4), True), ((8, 6, 3), True)],
    ids=["swapped", "reversed", "stale near", "stale far"],
)
def test_wrong_references_are_noticed(  # type: ignore[no-untyped-def]
    bundle, tmp_path: Path, swap: tuple[int, int, int], noticed: bool
) -> None:
    golden, path = bundle
    if "mrcfa" in str(path) and sorted(swap) == [3, 6, 9]:
        noticed = False  # MRCFA averages over the references
    with streamseg.open(rewritten(path, tmp_path, swap), native=False, threads=1) as stream:
        for name, tensor in given(golden).items():
            stream.give(name, tensor.numpy())
        if not noticed:
            compare(stream, golden)
            return
        with pytest.raises(AssertionError):
            compare(stream, golden)


@pytest.mark.data
def test_graphs_are_static_and_plain(bundle) -> None:  # type: ignore[no-untyped-def]
    _, path = bundle
    for name in ("single", "step"):
        graph = onnx.load(path / f"{name}.onnx").graph
        found = {node.op_type for node in graph.node}
        assert not found & {"If", "Loop", "Scan", "NonZero", "Unique", "Shape", "Range"}
        for value in (*graph.input, *graph.output):
            assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)


@pytest.mark.data
def test_prototypes_must_be_given_and_fit(shared: Path, tmp_path: Path) -> None:
    golden = read_golden(shared, "cffmpp_b0")
    model = load_checkpoint(golden.save_checkpoint(tmp_path / "model.pth"))
    export_bundle(model, tmp_path / "bundle", size=SIZE)
    with streamseg.open(tmp_path / "bundle", native=False) as stream:
        with pytest.raises(StateMismatch, match="streamseg prototypes"):
            stream.step(golden.frames[0])
        with pytest.raises(StateMismatch, match=r"\[100, 64\], expected float32 \[100, 256\]"):
            stream.give("prototypes", np.zeros((100, 64), np.float32))
        with pytest.raises(StateMismatch, match="is not a given state"):
            stream.give("features", np.zeros((100, 256), np.float32))
        centers = golden.arrays["centers"]
        stream.give("prototypes", centers)
        frames = [*golden.frames[:3], golden.frames[3]]
        first = [np.copy(stream.step(frame).labels) for frame in frames]
        twin = stream.sibling()
        assert all(
            np.array_equal(twin.step(frame).labels, labels)
            for frame, labels in zip(frames, first, strict=True)
        )
    with pytest.raises(StateMismatch, match="prototypes"):
        Replay(model, SIZE)
    with pytest.raises(StateMismatch, match=r"\[3\]"):
        Replay(model, SIZE, given={"prototypes": torch.zeros(3)})


@pytest.mark.data
def test_checkpoint_of_another_system_is_refused(shared: Path, tmp_path: Path) -> None:
    path = read_golden(shared, "mrcfa_b0").save_checkpoint(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="is a mrcfa checkpoint, not cffm"):
        load_checkpoint(path, family="cffm")
    with pytest.raises(CheckpointError, match=r"keep_ratio is 1\.5"):
        load_checkpoint(path, settings={"keep_ratio": 1.5})
    weights = read_golden(shared, "cffm_b0_depth2").weights
    torch.save({k: v for k, v in weights.items() if "blocks.1.mlp" not in k}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"missing: .*blocks\.1\.mlp\.fc1"):
        load_checkpoint(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (CFFM(CFFMConfig(B0, 256, 124, depth=1)), 4.673),
        (CFFM(CFFMConfig(B1, 256, 124, depth=2)), 15.483),
        (CFFMPlus(CFFMConfig(B0, 256, 124, depth=1)), 5.693),
        (CFFMPlus(CFFMConfig(B1, 256, 124, depth=2)), 16.503),
        (MRCFA(MRCFAConfig(B0, 256, 124, keep_ratio=0.8)), 5.298),
    ],
    ids=lambda value: getattr(value, "family", None),
)
def test_parameter_counts_are_the_published_ones(model: StepModel, millions: float) -> None:
    found = sum(parameter.numel() for parameter in model.parameters())
    assert round(found / 1e6, 3) == millions


def test_mrcfa_offers_the_next_legal_size() -> None:
    model = MRCFA(MRCFAConfig(B0, 256, 5))
    with pytest.raises(ExportError, match="480x864"):
        model.check_size((480, 853))
    with pytest.raises(ExportError, match="at least 5 cells"):
        model.check_size((32, 64))


def test_two_layer_affinity_decoder_is_inferred_and_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stages = tuple((name, ((1, 2, k), (2, 1, k))) for name, ((_, _, k),) in ONE_LAYER.items())
    model = MRCFA(MRCFAConfig(B0, 256, 5, keep_ratio=0.5, stages=stages))
    save_checkpoint(model, tmp_path / "model.safetensors")
    again = load_checkpoint(tmp_path / "model.safetensors")
    assert again.describe() == model.describe()
    report = export_bundle(again, tmp_path / "bundle", size=(64, 96), logits=True)
    assert report.parity["frames"] == 10
    assert report.parity["logits_max_abs"] < BUNDLE_LIMIT


def test_scaled_affinity_stage_is_exact_and_stays_in_range() -> None:
    torch.manual_seed(0)
    stage = AffinityStage(((1, 1, 3),)).double()
    torch.nn.init.constant_(stage[0].conv2.bias, 0.7)
    affinity = torch.randn(4, 1, 8, 8, dtype=torch.float64) * 2e5
    scale = 256**-0.5
    plain = stage(affinity)
    scaled = stage.forward_scaled(affinity * scale, scale)
    assert (plain - scaled).abs().max() < 1e-12
    assert torch.isinf(affinity.half()).any()
    assert torch.isfinite((affinity * scale).half()).all()
    unfolded = torch.nn.functional.group_norm(stage[0](affinity * 1e-5), 1)
    assert (unfolded.relu() - plain).abs().max() > 1e-6


def test_token_table_takes_published_counts() -> None:
    table = token_table(2, 3)
    assert table.tokens.shape == (6, 289)
    zero = 14 * 21 + 6 * (1 + 1 + 4 + 9)
    assert int(table.tokens.max()) == zero
    assert torch.equal(table.mask[:, 0, 0] < 0, table.tokens == zero)


def test_segformer_streams_without_state(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SegFormer(SegFormerConfig(B0, 64, 5))
    save_checkpoint(model, tmp_path / "model.safetensors")
    again = load_checkpoint(tmp_path / "model.safetensors")
    assert again.family == "segformer"
    report = export_bundle(again, tmp_path / "bundle", size=(64, 96), logits=True)
    assert report.state_bytes == 0
    frames = moving_pattern((64, 96), 3)
    with streamseg.open(tmp_path / "bundle", native=False) as stream, torch.no_grad():
        for frame in frames:
            found = stream.step(frame).logits
            want = model(torch.from_numpy(frame)[None])[0][0].numpy()
            assert found is not None
            assert np.abs(found - want).max() < BUNDLE_LIMIT


@pytest.mark.parametrize("name", list(MIT_PRESETS))
def test_segformer_sizes_are_inferred(name: str) -> None:
    config = SegFormerConfig(MIT_PRESETS[name], 32, 3)
    with torch.device("meta"):
        weights = published_weights(SegFormer(config))
    normalisation = {"mean": config.mean, "std": config.std}
    assert infer_segformer(weights, normalisation) == config
