from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

pytest.importorskip("tritonclient.grpc", reason="needs streamseg[triton]")

import streamseg
from streamseg.cli.main import run
from streamseg.errors import EngineMismatch, ExportError, PluginNotFound
from streamseg.export import export_bundle, load_checkpoint, save_checkpoint
from streamseg.export.parity import moving_pattern
from streamseg.export.triton import TritonOptions, check_pairing, make_config, write_repository
from streamseg.plugins.loader import find_library
from streamseg.runtime.backends.engine_files import EngineRecord, write_engine
from streamseg.runtime.bundle.bundle import digest, read_bundle
from streamseg.runtime.bundle.state import StateSpec
from tests.export.test_checkpoint import tiny
from tests.export.triton_server import Refused, Request, TritonModel, read_config, serve
from tests.plugins.cuda_builds import write_records
from tests.runtime.clips import write_clip
from tests.runtime.toy import write_toy_bundle

SIZE = (64, 96)
SAMPLE = Path(__file__).parents[2] / "samples/triton_client.py"
DTYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
}


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recurrent") / "street"
    export_bundle(tiny(), folder, size=SIZE, logits=True)
    return folder


@pytest.fixture(scope="module")
def stateless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from streamseg.export.models.mit import MiTConfig
    from streamseg.export.models.segformer import SegFormer, SegFormerConfig

    folder = tmp_path_factory.mktemp("stateless") / "still"
    config = SegFormerConfig(MiTConfig((8, 16, 40, 64), (1, 1, 1, 1)), 16, 3)
    save_checkpoint(SegFormer(config), folder.with_suffix(".safetensors"))
    export_bundle(load_checkpoint(folder.with_suffix(".safetensors")), folder, size=SIZE)
    return folder


def write(bundle: Path, out: Path, **options: object) -> Path:
    chosen = TritonOptions(threads=1, **options)  # type: ignore[arg-type]
    return write_repository(read_bundle(bundle), out, chosen).path


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures at the model's size, other ones for another seed."""
    return [np.roll(image, 7 * seed, axis=1) for image in moving_pattern(SIZE, count)]


def expected(bundle: Path, pictures: list[np.ndarray]) -> list[np.ndarray]:
    with streamseg.open(bundle, threads=1) as stream:
        return [stream.step(picture).labels.copy() for picture in pictures]


def tensors(config: object, graph: onnx.GraphProto) -> None:
    """Compare every tensor of a configuration with the graph's, both ways."""
    declared = {}
    for entry in (*graph.input, *graph.output):
        shape = [axis.dim_value for axis in entry.type.tensor_type.shape.dim]
        declared[entry.name] = (DTYPES[entry.type.tensor_type.elem_type], shape)
    named = {}
    schema = type(config).DESCRIPTOR.fields_by_name["input"].message_type  # type: ignore[attr-defined]
    types = schema.fields_by_name["data_type"].enum_type.values_by_number

    def add(name: str, entry: object) -> None:
        named[name] = (types[entry.data_type].name, list(entry.dims))  # type: ignore[attr-defined]

    for entry in (*config.input, *config.output):  # type: ignore[attr-defined]
        add(entry.name, entry)
    for state in config.sequence_batching.state:  # type: ignore[attr-defined]
        add(state.input_name, state)
        add(state.output_name, state)
        (initial,) = state.initial_state
        assert (initial.data_type, list(initial.dims)) == (state.data_type, list(state.dims))
    assert named == declared


def test_recurrent_repository_describes_the_graph(recurrent: Path, tmp_path: Path) -> None:
    path = write(recurrent, tmp_path / "repository", sequences=300, idle_seconds=30, instances=2)
    config = read_config(path / "config.pbtxt")
    model = onnx.load(path / "1" / "model.onnx")
    tensors(config, model.graph)
    assert (config.name, config.backend, config.max_batch_size) == ("street", "onnxruntime", 0)
    batching = config.sequence_batching
    assert batching.WhichOneof("strategy_choice") == "oldest"
    assert batching.oldest.max_candidate_sequences == 150, "Triton counts them per instance"
    assert batching.max_sequence_idle_microseconds == 30_000_000
    assert not batching.control_input
    assert len(batching.state) == len(read_bundle(recurrent).manifest.state) > 0
    for state in batching.state:
        assert state.initial_state[0].zero_data
        assert state.initial_state[0].name
    outputs = [state.output_name for state in batching.state]
    inputs = [state.input_name for state in batching.state]
    assert (outputs, inputs) == (sorted(outputs), sorted(inputs))
    assert not config.model_warmup, "a warm-up request has no sequence, the state refuses it"
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert [group.count for group in config.instance_group] == [2]


def test_stateless_repository_has_no_sequences_and_warms_up(
    stateless: Path, tmp_path: Path
) -> None:
    path = write(stateless, tmp_path / "repository", name="frames", gpu=True)
    config = read_config(path / "config.pbtxt")
    tensors(config, onnx.load(path / "1" / "model.onnx").graph)
    assert path.name == config.name == "frames"
    assert not config.HasField("sequence_batching")
    (warm,) = config.model_warmup
    assert warm.batch_size == 1
    assert list(warm.inputs["frame"].dims) == [1, *SIZE, 3]
    kinds = type(config.instance_group[0]).Kind
    assert config.instance_group[0].kind == kinds.Value("KIND_GPU")


def test_native_library_travels_with_the_model(recurrent: Path, tmp_path: Path) -> None:
    library = find_library()
    path = write(recurrent, tmp_path / "a", sequences=1, native=True, server_path="/models/")
    config = read_config(path / "config.pbtxt")
    listed = list(config.model_operations.op_library_filename)
    assert listed == [f"/models/street/{library.name}"]
    assert (path / library.name).read_bytes() == library.read_bytes()
    plain = write(recurrent, tmp_path / "b", sequences=1, native=False)
    assert not read_config(plain / "config.pbtxt").HasField("model_operations")
    assert sorted(entry.name for entry in plain.iterdir()) == ["1", "config.pbtxt"]
    with pytest.raises(PluginNotFound, match="is missing"):
        write(recurrent, tmp_path / "c", sequences=1, library=tmp_path / "no.so")


def test_gpu_takes_the_operators_for_cuda(recurrent: Path, tmp_path: Path) -> None:
    library = put_library(tmp_path, "libstreamseg_ort_cuda.so")
    path = write(recurrent, tmp_path / "r", sequences=1, gpu=True, library=library)
    (listed,) = read_config(path / "config.pbtxt").model_operations.op_library_filename
    assert Path(listed).read_bytes() == b"operators"
    assert (path / "libstreamseg_cuda.so").read_bytes() == b"kernels", "loaded from beside it"


def put_library(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(b"operators")
    (folder / "libstreamseg_cuda.so").write_bytes(b"kernels")
    write_records(folder)
    return folder / name


@pytest.mark.parametrize("native", [True, False], ids=["native", "lowering"])
def test_interleaved_sequences_are_bit_identical_to_streams(
    recurrent: Path, tmp_path: Path, native: bool
) -> None:
    model = TritonModel(write(recurrent, tmp_path / "r", sequences=3, native=native))
    videos = {number: frames(5, seed=number) for number in (1, 2, 3)}
    found: dict[int, list[np.ndarray]] = {number: [] for number in videos}
    for index in range(5):
        for number in (1, 2, 3) if index % 2 else (3, 1, 2):
            picture = videos[number][index][None]
            request = Request(picture, number, start=index == 0, end=index == 4)
            found[number].append(model.infer(request)["labels"][0])
    for number, pictures in videos.items():
        with streamseg.open(recurrent, native=native, threads=1) as stream:
            for got, picture in zip(found[number], pictures, strict=True):
                np.testing.assert_array_equal(got, stream.step(picture).labels)
    assert not model.slots


def test_fusions_of_the_server_change_the_last_digits_only(recurrent: Path, tmp_path: Path) -> None:
    folder = write(recurrent, tmp_path / "r", sequences=1)
    model, skipping = TritonModel(folder, all_fusions=True), TritonModel(folder)
    for index, picture in enumerate(frames(8)):
        request = {"start": index == 0, "end": index == 7}
        got = model.infer(Request(picture[None], 1, **request))
        want = skipping.infer(Request(picture[None], 1, **request))
        assert np.abs(got["logits"] - want["logits"]).max() < 1e-4
        assert (got["labels"] == want["labels"]).mean() > 0.999


def test_queued_requests_keep_their_order_and_wait_for_a_slot(
    recurrent: Path, tmp_path: Path
) -> None:
    model = TritonModel(write(recurrent, tmp_path / "r", sequences=1))
    pictures = frames(4)
    requests = [
        Request(picture[None], number, start=index == 0, end=index == 3)
        for number in (1, 2)
        for index, picture in enumerate(pictures)
    ]
    for request in requests:
        model.submit(request)
    assert model.run() == requests
    wanted = expected(recurrent, pictures)
    for request in requests:
        assert request.answer is not None
    for got, want in zip(requests[4:], wanted, strict=True):
        assert got.answer is not None
        np.testing.assert_array_equal(got.answer["labels"][0], want)


def test_end_idle_and_a_new_start_forget_the_state(recurrent: Path, tmp_path: Path) -> None:
    model = TritonModel(write(recurrent, tmp_path / "r", sequences=2, idle_seconds=10))
    pictures = frames(3)
    first, second, _ = expected(recurrent, pictures)

    def send(index: int, **flags: bool) -> np.ndarray:
        return model.infer(Request(pictures[index][None], 7, **flags))["logits"]

    begin = send(0, start=True)
    carried = send(1)
    with streamseg.open(recurrent, threads=1) as stream:
        stream.step(pictures[0])
        np.testing.assert_array_equal(stream.step(pictures[1]).logits, carried[0])
    assert (
        carried
        != TritonModel(tmp_path / "r/street").infer(Request(pictures[1][None], 1, start=True))[
            "logits"
        ]
    ).any(), "state must matter here"
    np.testing.assert_array_equal(send(0, start=True), begin)
    model.now += 9
    np.testing.assert_array_equal(send(1), carried)
    model.now += 11
    with pytest.raises(Refused, match="START"):
        send(2)
    send(0, start=True, end=True)
    with pytest.raises(Refused, match="START"):
        send(1)
    assert first.shape == second.shape == SIZE


def test_triton_pairs_states_by_sorted_names_so_prefixes_are_refused() -> None:
    shape = (1, 4)
    fine = (StateSpec("layer1.conv", shape), StateSpec("layer10.conv", shape))
    check_pairing(fine)
    swapped = (StateSpec("cache", shape), StateSpec("cache.length", shape))
    with pytest.raises(ExportError, match=r"state output 'cache.length.out' to input 'cache.in'"):
        check_pairing(swapped)


def test_other_kinds_of_state_are_refused_with_the_reason(tmp_path: Path) -> None:
    bundle = read_bundle(write_toy_bundle(tmp_path / "toy"))
    manifest = bundle.manifest
    for kind, reason in [
        ("ring", "features of several past frames"),
        ("key", "alternates between a graph for key frames"),
        ("given", "comes from outside the video"),
    ]:
        state = (replace(manifest.state[0], kind=kind, slots=1),)
        other = replace(bundle, manifest=replace(manifest, state=state))
        with pytest.raises(ExportError, match=f"has {kind} state.*{reason}"):
            write_repository(other, tmp_path / "r", TritonOptions(sequences=1))
    carried = replace(bundle, manifest=replace(manifest, state=manifest.state[:1]))
    with pytest.raises(ExportError, match="has 3 graphs"):
        write_repository(carried, tmp_path / "r", TritonOptions(sequences=1))
    assert not (tmp_path / "r").exists()


def engine_of(bundle: Path, path: Path, **changes: str) -> Path:
    content = b"a plan"
    record = EngineRecord(
        graph="step",
        graph_sha256=digest(read_bundle(bundle).graphs["step"]),
        flavour="tensorrt",
        version="10.3.0",
        gpu="L4",
        capabilities=("8.9",),
        driver="12.6",
        precision="fp16",
        plugins_sha256="",
        engine_sha256=digest(content),
    )
    write_engine(path, content, replace(record, **changes))
    return path


def test_tensorrt_variant_takes_the_engine(recurrent: Path, tmp_path: Path) -> None:
    engine = engine_of(recurrent, tmp_path / "step.engine")
    path = write(recurrent, tmp_path / "r", sequences=8, engine=engine)
    config = read_config(path / "config.pbtxt")
    tensors(config, onnx.load(recurrent / "step.onnx").graph)
    assert config.backend == "tensorrt"
    assert (path / "1" / "model.plan").read_bytes() == b"a plan"
    kinds = type(config.instance_group[0]).Kind
    assert config.instance_group[0].kind == kinds.Value("KIND_GPU")


def test_tensorrt_variant_brings_its_plugins(recurrent: Path, tmp_path: Path) -> None:
    library = put_library(tmp_path, "libstreamseg_tensorrt.so")
    sha256 = digest(library.read_bytes()).removeprefix("sha256:")
    engine = engine_of(recurrent, tmp_path / "step.engine", plugins_sha256=sha256)
    options = TritonOptions(sequences=8, engine=engine, server_path="/models", library=library)
    model = write_repository(read_bundle(recurrent), tmp_path / "r", options)
    assert (model.path / library.name).read_bytes() == b"operators"
    assert (model.path / "libstreamseg_cuda.so").read_bytes() == b"kernels"
    assert model.command.endswith(
        "--backend-config=tensorrt,plugins=/models/street/libstreamseg_tensorrt.so"
    )
    library.write_bytes(b"others")
    write_records(tmp_path)
    with pytest.raises(EngineMismatch, match="built with plugin library"):
        write_repository(read_bundle(recurrent), tmp_path / "r", options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph_sha256": "sha256:" + "0" * 64}, "built from a graph with"),
        ({"flavour": "tensorrt_rtx"}, "is of tensorrt_rtx"),
        ({"engine_sha256": "sha256:" + "0" * 64}, "cut short or changed"),
    ],
)
def test_engine_that_does_not_fit_is_refused(
    recurrent: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    engine = engine_of(recurrent, tmp_path / "step.engine", **changes)
    with pytest.raises(EngineMismatch, match=message):
        write(recurrent, tmp_path / "r", sequences=8, engine=engine)
    assert not (tmp_path / "r").exists()


def test_an_older_model_is_replaced_and_others_stay(recurrent: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    write(recurrent, out, sequences=1)
    write(recurrent, out, sequences=5)
    write(recurrent, out, sequences=1, name="other")
    config = read_config(out / "street" / "config.pbtxt")
    assert config.sequence_batching.oldest.max_candidate_sequences == 5
    assert sorted(entry.name for entry in out.iterdir()) == ["other", "street"]
    (out / "mine").mkdir()
    with pytest.raises(ExportError, match="is not a Triton model"):
        write(recurrent, out, sequences=1, name="mine")


def test_names_are_written_as_text_that_the_schema_reads_back(recurrent: Path) -> None:
    manifest = read_bundle(recurrent).manifest
    path = 'C:\\odd "place"/ü.so'
    text = make_config(manifest, "step", "m", TritonOptions(sequences=1), library=path)
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert list(config.model_operations.op_library_filename) == [path]


def test_command_writes_a_repository_and_shows_how_to_start_it(
    recurrent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    arguments = ["triton", str(recurrent), "-o", str(out)]
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == 2
    assert "--sequences" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run([*arguments, "--sequences", "16"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "16 streams at once" in text
    assert "no complete Triton server has run such a repository yet" in text
    assert f"start: tritonserver --model-repository={out}" in text


def test_sample_client_streams_a_video_over_grpc(recurrent: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=6, size=(48, 80))
    model = TritonModel(write(recurrent, tmp_path / "r", sequences=2))
    server, servicer, address = serve("street", model)
    command = [sys.executable, str(SAMPLE), "--url", address, "--sequence", "5", "--warm-up"]
    options = ["--source", str(clip), "--labels", str(tmp_path / "labels"), "--model"]
    try:
        done = subprocess.run([*command, *options, "street"], capture_output=True, text=True)
        wrong = subprocess.run([*command, *options, "road"], capture_output=True, text=True)
    finally:
        server.stop(None)
    assert done.returncode == 0, done.stderr
    assert "6 frames" in done.stdout
    warm, video = servicer.seen[:3], servicer.seen[3:]
    assert warm == [(5, True, False), (5, False, False), (5, False, True)]
    assert video == [(5, True, False), *[(5, False, False)] * 4, (5, False, True)]
    with streamseg.open(recurrent, threads=1) as stream, streamseg.open_source(str(clip)) as source:
        for frame in source:
            name = str(tmp_path / "labels" / f"{frame.index:06d}.png")
            got = cv2.imread(name, cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(got, stream.step(frame.image).labels)
    assert wrong.returncode == 1
    assert "unknown model 'road'" in wrong.stderr
