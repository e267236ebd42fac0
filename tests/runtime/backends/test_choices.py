"""What a remembered measurement of steps belongs to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streamseg.runtime.backends.choices import place_of_steps
from streamseg.runtime.backends.interface import BackendOptions
from streamseg.runtime.bundle.bundle import Bundle

OPTIONS = BackendOptions(threads=1)
VERSIONS = ["1.32.0", "2026.4.1-build"]


def bundle(identity: str = "a") -> Bundle:
    return cast(Bundle, SimpleNamespace(identity=identity))


@pytest.mark.parametrize("change", [{"threads": 2}, {"parallel": 2}, {"native": False}], ids=str)
def test_another_option_is_another_choice(change: dict[str, Any]) -> None:
    here = place_of_steps(bundle(), OPTIONS, VERSIONS)
    assert here == place_of_steps(bundle(), replace(OPTIONS, precision="bf16"), VERSIONS)
    assert here != place_of_steps(bundle(), replace(OPTIONS, **change), VERSIONS)


def test_another_bundle_runtime_or_question_is_another_choice() -> None:
    places = {
        place_of_steps(bundle(), OPTIONS, VERSIONS),
        place_of_steps(bundle("b"), OPTIONS, VERSIONS),
        place_of_steps(bundle(), OPTIONS, ["1.33.0", VERSIONS[1]]),
        place_of_steps(bundle(), OPTIONS, VERSIONS, "precision"),
    }
    assert len(places) == 4


def test_choice_belongs_to_the_content_of_a_named_library(tmp_path: Path) -> None:
    library = tmp_path / "operators.so"
    options = replace(OPTIONS, library=library)
    places = {
        place_of_steps(bundle(), OPTIONS, VERSIONS),
        place_of_steps(bundle(), options, VERSIONS),
    }
    for content in (b"first", b"built again"):
        library.write_bytes(content)
        places.add(place_of_steps(bundle(), options, VERSIONS))
    assert len(places) == 4
