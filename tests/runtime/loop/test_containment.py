"""benchmarks/containment.py in short; the full one is ``make verify-long``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import streamseg
from streamseg.runtime.loop.fleet import Attachment
from streamseg.runtime.loop.member import Member
from streamseg.runtime.session.events import Event
from tests.runtime.loop.test_fleet import NO_CUTS, expected_labels, noise_of
from tests.runtime.smoothing import write_smoothing_bundle
from tests.runtime.toy import write_toy_bundle

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def containment() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        path = BENCHMARKS / "containment.py"
        spec = importlib.util.spec_from_file_location("containment", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "containment", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smoothing_bundle(tmp_path_factory.mktemp("bundle") / "bundle", (48, 64))


def test_failure_of_one_stream_loses_nothing_of_others(
    containment: ModuleType, bundle: Path
) -> None:
    result = containment.run(bundle, 40, 1200)
    assert containment.find_faults(result) == []
    assert sum(row["tries"] for row in result["stages"]) == 4 * 9
    assert result["crowd"]["failures"] >= 8


def test_an_exception_that_is_not_contained_fails_the_check(
    containment: ModuleType, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "streamseg.runtime.loop.round_robin.domain_error", lambda *_given: KeyboardInterrupt()
    )
    fault = containment.Fault("begin", lambda: ValueError("injected"))
    with pytest.raises(KeyboardInterrupt):
        containment.inject(bundle, fault, "ValueError", {0: b""})


def test_labels_of_another_run_fail_the_check(containment: ModuleType, bundle: Path) -> None:
    fault = containment.Fault("read", lambda: ValueError("injected"))
    outcome = containment.inject(bundle, fault, "ValueError", {0: b"other labels"})
    assert (outcome.wrong, outcome.lost, outcome.unreported) == (1, 0, 0)


@pytest.mark.parametrize("stage", ["begin", "finish"])
def test_labels_beside_a_failing_stream_are_those_of_the_formula(
    tmp_path: Path, stage: str
) -> None:
    """The toy network's labels are known without running it."""

    def break_it(member: Member) -> None:
        session = member.session
        inner: Callable[..., object] = getattr(session, stage)

        def fail(*given: object) -> object:
            if session.frames >= 5:
                raise MemoryError(f"in {stage}")
            return inner(*given)

        setattr(session, stage, fail)

    events: list[Event] = []
    seen: dict[str, list[np.ndarray]] = {f"s{seed}": [] for seed in range(5)}
    toy = write_toy_bundle(tmp_path / "toy")
    with streamseg.open_fleet(toy, threads=1, on_event=events.append) as fleet:
        for seed in range(5):
            attachment = Attachment(on_join=break_it) if seed == 2 else None
            fleet.add(f"s{seed}", noise_of(seed, 12), policy=NO_CUTS, attachment=attachment)
        for done in fleet:
            seen[done.stream].append(done.result.labels.copy())
        assert fleet.failed == {"s2"}
    for seed in (0, 1, 3, 4):
        np.testing.assert_array_equal(seen[f"s{seed}"], expected_labels(seed, 12))
    assert 4 <= len(seen["s2"]) <= 5
    (reason,) = [event.reason for event in events if (event.kind, event.stream) == ("end", "s2")]
    assert reason == f"MemoryError: in {stage}"
