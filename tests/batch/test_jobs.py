"""The batch on processes: results, restarts, deaths, bad videos, shards, segments, elsewhere."""

from __future__ import annotations

import json
import os
import re
import signal
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs streamseg[batch]")
pytest.importorskip("fsspec", reason="needs streamseg[batch]")

from streamseg.batch.executor import InlineExecutor
from streamseg.batch.local import LocalExecutor
from streamseg.batch.work import Task
from streamseg.cli.main import run
from streamseg.errors import BackendError, BatchError, SourceError
from streamseg.runtime.stream import Stream
from tests.batch.archives import (
    check_results,
    count_done,
    make_batch,
    make_settings,
    read_journal,
    read_labels,
    read_table,
    reference,
    write_archive,
    write_noise_clip,
)
from tests.batch.processes import (
    start,
    wait_for_done,
    wait_until_gone,
)
from tests.runtime.toy import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_archive(tmp_path_factory.mktemp("archive"), videos=20)


def root_of(videos: dict[str, Path]) -> Path:
    name, path = next(iter(videos.items()))
    return path.parents[len(Path(name).parts) - 1]


def pattern_of(videos: dict[str, Path]) -> str:
    return f"{root_of(videos)}/*/*.mp4"


def done_of(out: Path) -> list[Path]:
    return sorted(out.rglob("done.json"))


def test_two_processes_write_what_run_writes(
    bundle: Path, videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["batch", str(bundle), pattern_of(videos), "-o", str(out)]
    with pytest.raises(SystemExit) as stopped:
        run([*arguments, "--workers", "2"])
    assert stopped.value.code == 0
    assert "20 videos done" in capsys.readouterr().out
    check_results(out, bundle, videos, tmp_path / "run")
    resets = {path.parent.name: json.loads(path.read_text())["resets"] for path in done_of(out)}
    assert {name: found for name, found in resets.items() if found} == {"02.mp4": {"cut": 1}}
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    with pytest.raises(SystemExit):
        run(arguments)
    assert "0 videos done (0 frames), 20 were done before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == written
    assert set(count_done(out).values()) == {1}


def test_killed_worker_loses_no_video(
    bundle: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", []
    batch = make_batch(bundle, pattern_of(videos), out, make_settings(bundle))
    with LocalExecutor(make_settings(bundle), 2) as executor:

        def kill_once(*_: object) -> None:
            if not killed and executor.pids:
                killed.append(executor.pids[0])
                os.kill(killed[0], signal.SIGKILL)

        report = batch.run(executor, on_progress=kill_once)
    assert (report.finished, report.failures) == (20, {})
    crashes = [line for line in read_journal(out) if line["kind"] == "crashed"]
    assert len(crashes) == 1
    assert "SIGKILL" in crashes[0]["reason"]
    assert count_done(out) == dict.fromkeys(videos, 1)
    check_results(out, bundle, videos, tmp_path / "run")


def test_killed_driver_ends_its_workers_and_a_new_one_resumes(
    bundle: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    out, pattern = tmp_path / "out", pattern_of(videos)
    process = start(bundle, pattern, out, "--workers", "2")
    try:
        wait_for_done(out, 3, process)
    finally:
        process.kill()
        process.communicate()
    before = count_done(out)
    assert 3 <= len(before) < 20
    wait_until_gone(process)
    again = start(bundle, pattern, out, "--workers", "2")
    text, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    numbers = re.search(r"(\d+) videos done .*, (\d+) were done before, 0 failed", text)
    assert numbers is not None, text
    done, skipped = int(numbers[1]), int(numbers[2])
    assert done + skipped == 20
    assert skipped >= len(before), "a rename without its line counts too"
    assert count_done(out) == dict.fromkeys(videos, 1)
    check_results(out, bundle, videos, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_batch_in_good_order(
    bundle: Path, videos: dict[str, Path], tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = start(bundle, pattern_of(videos), out, "--workers", "1")
    try:
        wait_for_done(out, 1, process)
        os.killpg(process.pid, number)
        text, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number, errors
    assert "run the same command to resume" in text
    assert "Traceback" not in errors
    wait_until_gone(process)


def test_bad_videos_are_listed_and_the_rest_finishes(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = write_archive(tmp_path / "in", videos=4)
    (tmp_path / "in/cam0/text.mp4").write_text("no video")
    whole = videos["cam1/01.mp4"].read_bytes()
    (tmp_path / "in/cam1/cut.mp4").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    arguments = ["batch", str(bundle), f"{tmp_path}/in/*/*.mp4", "-o", str(out)]
    for again in (False, True):
        with pytest.raises(SystemExit) as stopped:
            run(arguments)
        assert stopped.value.code == 1
        text = capsys.readouterr().out
        for name in ("cam0/text.mp4", "cam1/cut.mp4"):
            before = "set aside before: " if again else ""
            assert f"failed: {name}: {before}{tmp_path}/in/{name} is not a video" in text
    check_results(out, bundle, videos, tmp_path / "run")
    begun = [line["key"] for line in read_journal(out) if line["kind"] == "begun"]
    assert begun.count("cam0/text.mp4") == 1, "what is set aside is not tried again"
    write_noise_clip(tmp_path / "in/cam0/text.mp4", seed=9, frames=10)
    with pytest.raises(SystemExit) as stopped:
        run([*arguments, "--retry"])
    assert stopped.value.code == 1
    assert (out / "cam0/text.mp4/done.json").is_file(), "another content is another task"


class Killer(LocalExecutor):
    """Kills the worker that gets a certain video."""

    def submit(self, task: Task) -> None:
        super().submit(task)
        if task.video.endswith("01.mp4"):
            (entry,) = [entry for entry in self._processes if entry.task == task]
            assert entry.process.pid is not None
            os.kill(entry.process.pid, signal.SIGKILL)


def test_video_that_kills_its_workers_is_skipped(bundle: Path, tmp_path: Path) -> None:
    videos = write_archive(tmp_path / "in", videos=4)
    settings, out = make_settings(bundle), tmp_path / "out"
    with Killer(settings, 2) as executor:
        batch = make_batch(bundle, f"{tmp_path}/in/*/*.mp4", out, settings, attempts=2)
        report = batch.run(executor)
        assert report.finished == 3
        assert list(report.failures) == ["cam1/01.mp4"]
        assert "killed by SIGKILL (out of memory?), 2 times" in report.failures["cam1/01.mp4"]
    with LocalExecutor(settings, 1) as executor:
        second = make_batch(bundle, f"{tmp_path}/in/*/*.mp4", out, settings).run(executor)
        assert "set aside before" in second.failures["cam1/01.mp4"]
    with Killer(settings, 1) as executor:
        batch = make_batch(bundle, f"{tmp_path}/in/*/*.mp4", out, settings, attempts=2, retry=True)
        again = batch.run(executor)
        assert "SIGKILL (out of memory?), 2 times" in again.failures["cam1/01.mp4"], "not the first"
    with LocalExecutor(settings, 1) as executor:
        batch = make_batch(bundle, f"{tmp_path}/in/*/*.mp4", out, settings, retry=True)
        assert batch.run(executor).finished == 1
    check_results(out, bundle, videos, tmp_path / "run")


def test_crashes_are_counted_across_restarts(bundle: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "in", videos=2)
    settings, out = make_settings(bundle), tmp_path / "out"
    batch = make_batch(bundle, f"{tmp_path}/in/*/*.mp4", out, settings, attempts=3)
    place = batch._place
    from streamseg.batch.journal import Journal
    from streamseg.batch.work import identify_video

    video = next(video for video in batch.videos if video.name == "cam1/01.mp4")
    with Journal(place.journal) as journal:
        for _ in range(2):
            journal.record("crashed", video.name, identify_video(video, settings), "before")
    with Killer(settings, 1) as executor:
        report = batch.run(executor)
    assert "3 times" in report.failures["cam1/01.mp4"]


def test_shards_share_the_work_and_depend_on_names_alone(
    bundle: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    settings, out = make_settings(bundle), tmp_path / "out"
    found = []
    with InlineExecutor(settings) as executor:
        for index in range(3):
            batch = make_batch(bundle, pattern_of(videos), out, settings, shard=(index, 3))
            names = [video.name for video in batch.videos]
            part = make_batch(
                bundle, f"{root_of(videos)}/cam0/*.mp4", out, settings, shard=(index, 3)
            )
            assert names
            found += names
            assert batch.run(executor).finished == len(names)
            assert set(count_done(out, f"{index}-of-3")) == set(names)
            del part
    assert sorted(found) == sorted(videos)
    check_results(out, bundle, videos, tmp_path / "run")
    with InlineExecutor(settings) as executor:
        everything = make_batch(bundle, pattern_of(videos), out, settings).run(executor)
    assert everything.skipped == 20, "results count, whichever journal names them"


def test_segments_join_into_what_the_whole_video_gives(bundle: Path, tmp_path: Path) -> None:
    video = write_noise_clip(tmp_path / "long.mp4", seed=3, frames=50)
    whole = reference(bundle, video, tmp_path / "run")
    settings = make_settings(bundle, segment=15, overlap=30, video=True)
    out = tmp_path / "out"
    with LocalExecutor(settings, 2) as executor:
        report = make_batch(bundle, str(video), out, settings).run(executor)
    assert (report.finished, report.frames) == (1, 50)
    found = read_labels(out / "long.mp4/labels")
    # The toy's trace halves with each frame, its key frames recur with the schedule.
    for got, want in zip(found, whole, strict=True):
        np.testing.assert_array_equal(got, want)
    rows = read_table(out / "long.mp4/classes.parquet")
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert sum(row[4] for row in rows) == 50 * 48 * 64
    overlays = sorted(path.name for path in (out / "long.mp4").glob("*.mp4"))
    assert overlays == [f"overlay-{first:08d}.mp4" for first in (0, 15, 30, 45)]
    assert not list((out / ".streamseg/parts").rglob("*.png"))
    with InlineExecutor(settings) as inline:
        assert make_batch(bundle, str(video), out, settings).run(inline).skipped == 1


def test_segments_without_overlap_start_from_nothing(bundle: Path, tmp_path: Path) -> None:
    video = write_noise_clip(tmp_path / "long.mp4", seed=3, frames=30)
    whole = reference(bundle, video, tmp_path / "run")
    settings = make_settings(bundle, segment=15, overlap=0)
    with InlineExecutor(settings) as executor:
        make_batch(bundle, str(video), tmp_path / "out", settings).run(executor)
    found = read_labels(tmp_path / "out/long.mp4/labels")
    differ = [index for index in range(30) if (found[index] != whole[index]).any()]
    assert differ
    assert min(differ) >= 15 - 15 % 4, "the first segment has no seam"


def test_lost_segment_alone_is_repeated(bundle: Path, tmp_path: Path) -> None:
    video = write_noise_clip(tmp_path / "long.mp4", seed=3, frames=40)
    settings, out = make_settings(bundle, segment=10, overlap=4), tmp_path / "out"

    class Broken(InlineExecutor):
        def wait(self, seconds: float):  # type: ignore[no-untyped-def]
            (outcome,) = super().wait(seconds)
            if outcome.task.first == 20:
                return [replace(outcome, status="failed", reason="the disk was full")]
            return [outcome]

    with Broken(settings) as executor:
        report = make_batch(bundle, str(video), out, settings).run(executor)
    assert report.failures == {"long.mp4": "the disk was full"}
    assert not (out / "long.mp4").exists()
    kept = sorted(path.parent.name for path in (out / ".streamseg/parts").rglob("done.json"))
    assert kept == ["00000000", "00000010", "00000020"]
    with InlineExecutor(settings) as executor:
        report = make_batch(bundle, str(video), out, settings).run(executor)
    assert (report.finished, report.frames) == (1, 10), "only the segment that was missing"
    assert len(read_labels(out / "long.mp4/labels")) == 40


def test_changed_settings_or_content_are_new_work(bundle: Path, tmp_path: Path) -> None:
    videos = write_archive(tmp_path / "in", videos=2)
    pattern, out = f"{tmp_path}/in/*/*.mp4", tmp_path / "out"
    settings = make_settings(bundle)
    with InlineExecutor(settings) as executor:
        make_batch(bundle, pattern, out, settings).run(executor)
        write_noise_clip(videos["cam0/00.mp4"], seed=77, frames=12)
        report = make_batch(bundle, pattern, out, settings).run(executor)
        assert (report.finished, report.skipped) == (1, 1)
    check_results(out, bundle, videos, tmp_path / "run")
    other = make_settings(bundle, labels=False, video=True)
    with InlineExecutor(other) as executor:
        assert make_batch(bundle, pattern, out, other).run(executor).finished == 2
    assert not list(out.rglob("*.png"))
    assert len(list(out.rglob("overlay.mp4"))) == 2


def test_results_may_live_elsewhere(bundle: Path, tmp_path: Path) -> None:
    import fsspec

    videos = write_archive(tmp_path / "in", videos=2)
    memory = fsspec.filesystem("memory")
    for name, path in videos.items():
        memory.pipe_file(f"/videos/{name}", path.read_bytes())
    settings = make_settings(bundle)

    def segment() -> tuple[int, int]:
        batch = make_batch(
            bundle, "memory://videos/*/*.mp4", "memory://out", settings, journal=tmp_path / "j"
        )
        with InlineExecutor(settings) as executor:
            report = batch.run(executor)
        return report.finished, report.skipped

    try:
        assert segment() == (2, 0)
        assert segment() == (0, 2)
        memory.rm_file("/out/cam0/00.mp4/done.json")
        assert segment() == (1, 1)
        memory.get("/out/", str(tmp_path / "copy"), recursive=True)
    finally:
        memory.rm("/", recursive=True)
    check_results(tmp_path / "copy", bundle, videos, tmp_path / "run")


def test_videos_in_an_archive_file_reach_worker_processes(bundle: Path, tmp_path: Path) -> None:
    videos = write_archive(tmp_path / "in", videos=2)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, path in videos.items():
            archive.write(path, name)
    settings, out = make_settings(bundle), tmp_path / "out"
    with LocalExecutor(settings, 1) as executor:
        report = make_batch(bundle, f"zip://*/*.mp4::file://{tmp_path}/all.zip", out, settings).run(
            executor
        )
    assert report.finished == 2
    check_results(out, bundle, videos, tmp_path / "run")


def test_results_missing_from_the_journal_are_adopted(bundle: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "in", videos=2)
    pattern, out, settings = f"{tmp_path}/in/*/*.mp4", tmp_path / "out", make_settings(bundle)
    with InlineExecutor(settings) as executor:
        make_batch(bundle, pattern, out, settings).run(executor)
        journal = out / ".streamseg/0-of-1.jsonl"
        journal.write_text(journal.read_text()[:-30])
        report = make_batch(bundle, pattern, out, settings).run(executor)
        assert (report.finished, report.skipped) == (0, 2)
    assert journal.read_bytes().endswith(b"}\n")
    lines = journal.read_text().splitlines()
    assert '"done"' in lines[-1]


def test_overlays_of_an_earlier_run_are_not_inputs(bundle: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "in", videos=1)
    settings, out = make_settings(bundle, video=True), tmp_path / "in/results"
    for finished, skipped in ((1, 0), (0, 1)):
        with InlineExecutor(settings) as executor:
            report = make_batch(bundle, f"{tmp_path}/in/**/*.mp4", out, settings).run(executor)
        assert (report.videos, report.finished, report.skipped) == (1, finished, skipped)


def test_two_batches_must_not_share_a_journal(bundle: Path, tmp_path: Path) -> None:
    from streamseg.batch.journal import Journal

    write_archive(tmp_path / "in", videos=1)
    settings = make_settings(bundle)
    batch = make_batch(bundle, f"{tmp_path}/in/*/*.mp4", tmp_path / "out", settings)
    with (
        Journal(tmp_path / "out/.streamseg/0-of-1.jsonl"),
        InlineExecutor(settings) as executor,
        pytest.raises(BatchError, match=r"another batch is writing.*--shard i/N"),
    ):
        batch.run(executor)


def test_bundle_that_no_worker_can_open_ends_the_batch(bundle: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "in", videos=2)
    settings = make_settings(bundle, backend="nonsense")
    batch = make_batch(bundle, f"{tmp_path}/in/*/*.mp4", tmp_path / "out", settings)
    with InlineExecutor(settings) as executor, pytest.raises(BackendError, match="nonsense"):
        batch.run(executor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{root}/none/*.mp4"], "no file matches"),
        (["{root}/cam0"], "is a folder, write"),
        (["nowhere://x/*.mp4"], "cannot open 'nowhere://x/*.mp4'"),
        (["{pattern}", "--shard", "2/2"], "shard is '2/2', expected i/N"),
        (["{root}/cam0/00.mp4", "{root}/00.mp4"], "would both write"),
        (["{pattern}", "-o", "{root}"], "all matching files are in the output folder"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    root = tmp_path / "in"
    write_archive(root, videos=1)
    write_noise_clip(root / "00.mp4", seed=1, frames=2)
    filled = [part.format(root=root, pattern=f"{root}/*/*.mp4") for part in options]
    with pytest.raises(SystemExit) as stopped:
        run(["batch", str(bundle), "-o", str(tmp_path / "out"), *filled])
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text


def test_remote_output_needs_a_local_journal_and_unsplit_videos(tmp_path: Path) -> None:
    from streamseg.batch.jobs import BatchPlace

    with pytest.raises(BatchError, match="--journal"):
        BatchPlace.below("memory://out", shard=(0, 1), journal=None, segmented=False)
    with pytest.raises(BatchError, match="segments are joined by links"):
        BatchPlace.below("memory://out", shard=(0, 1), journal=tmp_path, segmented=True)


def test_video_interrupted_while_read_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "in", videos=1)
    settings, out = make_settings(bundle), tmp_path / "out"

    begin, count = Stream.begin, iter(range(1000))

    def broken(*given: Any, **options: Any) -> None:
        if next(count) == 3:
            raise SourceError("is cut off after 0.4 s")
        begin(*given, **options)

    monkeypatch.setattr("streamseg.runtime.stream.Stream.begin", broken)
    with InlineExecutor(settings) as executor:
        report = make_batch(bundle, f"{tmp_path}/in/*/*.mp4", out, settings).run(executor)
    assert report.failures == {"cam0/00.mp4": "is cut off after 0.4 s"}
    assert not list(out.rglob("*.png"))
