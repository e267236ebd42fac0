"""The batch on a real Ray cluster of two worker processes on this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs streamseg[batch]")
pytest.importorskip("fsspec", reason="needs streamseg[batch]")
pytest.importorskip("ray", reason="needs streamseg[ray]")

import ray

from streamseg.batch.cluster import RayExecutor
from streamseg.errors import BatchError
from tests.batch.archives import (
    check_results,
    count_done,
    make_batch,
    make_settings,
    read_journal,
    write_archive,
)
from tests.batch.processes import session_of, start, wait_for_done, wait_until_gone
from tests.runtime.toy import write_toy_bundle

# Ray's own code, not ours, leaves files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """20 videos that decode, and among them one that does not."""
    root = tmp_path_factory.mktemp("archive")
    videos = write_archive(root, videos=20)
    (root / "cam0" / "corrupt.mp4").write_bytes(bytes(range(256)) * 40)
    return root, videos


@pytest.fixture
def cluster(bundle: Path) -> Iterator[RayExecutor]:
    with RayExecutor(make_settings(bundle), 2) as executor:
        yield executor


def test_actors_write_what_run_writes_past_a_death_and_a_corrupt_video(
    bundle: Path,
    archive: tuple[Path, dict[str, Path]],
    cluster: RayExecutor,
    tmp_path: Path,
) -> None:
    root, videos = archive
    out, killed = tmp_path / "out", []
    pids = ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in cluster._idle])
    assert len(set(pids)) == 2
    assert os.getpid() not in pids

    def kill_once(*_: object) -> None:
        if not killed and cluster.free < 2:
            killed.extend(pids)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    batch = make_batch(bundle, f"{root}/*/*.mp4", out, make_settings(bundle))
    report = batch.run(cluster, on_progress=kill_once)
    assert report.finished == 20
    assert list(report.failures) == ["cam0/corrupt.mp4"]
    assert "is not a video" in report.failures["cam0/corrupt.mp4"]
    crashes = [line for line in read_journal(out) if line["kind"] == "crashed"]
    assert 1 <= len(crashes) <= 2
    assert "actor died" in crashes[0]["reason"]
    assert count_done(out) == dict.fromkeys(videos, 1)
    check_results(out, bundle, videos, tmp_path / "run")


def test_killed_driver_ends_its_cluster_and_a_new_one_resumes(
    bundle: Path, archive: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    root, videos = archive
    out, pattern = tmp_path / "out", f"{root}/cam1/*.mp4"
    wanted = {name: path for name, path in videos.items() if name.startswith("cam1/")}
    wanted = {name.removeprefix("cam1/"): path for name, path in wanted.items()}
    process = start(bundle, pattern, out, "--ray", "--workers", "2")
    try:
        wait_for_done(out, 2, process)
    finally:
        process.kill()
        process.communicate()
    before = count_done(out)
    assert 2 <= len(before) < len(wanted)
    # Ray's agents hold no work; they notice by themselves, later.
    wait_until_gone(process, but=("", "ray::DashboardAgent", "ray::RuntimeEnvAgent"))
    for pid in session_of(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    again = start(bundle, pattern, out, "--ray", "--workers", "2")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "Traceback" not in errors
    assert count_done(out) == dict.fromkeys(wanted, 1)
    check_results(out, bundle, wanted, tmp_path / "run")


def test_running_cluster_is_joined_by_its_address(
    bundle: Path,
    archive: tuple[Path, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    root, videos = archive
    out, pattern = tmp_path / "out", f"{root}/cam1/0*.mp4"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    options = ["--num-cpus", "1", "--include-dashboard", "false", "--disable-usage-stats"]
    place = ["--node-ip-address", "127.0.0.1", "--port", address.partition(":")[2]]
    store = ["--object-store-memory", str(80 << 20)]
    cluster = subprocess.Popen(
        [*head, *options, *place, *store],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for_port(address)
        many = start(bundle, pattern, out, "--ray", address, "--workers", "3", "--gpus", "99")
        _, errors = many.communicate(timeout=120)
        assert many.returncode == 2
        assert "has room for 0 workers of 1 thread and 99 GPUs, expected 3" in errors
        one = start(bundle, pattern, out, "--ray", address)
        _, errors = one.communicate(timeout=120)
        assert one.returncode == 0, errors
    finally:
        for pid in session_of(cluster.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cluster.wait()
    wanted = {
        name.removeprefix("cam1/"): path
        for name, path in videos.items()
        if name.startswith("cam1/0")
    }
    check_results(out, bundle, wanted, tmp_path / "run")


def wait_for_port(address: str) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens at {address}")


def test_address_where_nothing_listens_is_reported_at_once(bundle: Path) -> None:
    with pytest.raises(BatchError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        RayExecutor(make_settings(bundle), 1, address="127.0.0.1:1")
