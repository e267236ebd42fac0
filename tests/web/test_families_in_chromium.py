"""Every family in real Chromium: the labels of the Python runtime outside ties."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.web.site import write_site
from tests.conformance.write_cases import FOLDER
from tests.conftest import TinyBundle
from tests.families import record
from tests.web.conftest import DRIVER, PACKAGE, chromium, serving
from tests.web.test_conformance_in_chromium import play

pytest.importorskip("selenium", reason="needs selenium")
pytest.importorskip("torch", reason="exports networks")
from tests.export.tiny import FAMILIES

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver here: run make browser-tools"),
    pytest.mark.skipif(not PACKAGE.is_dir(), reason="no onnxruntime-web: run make web-tools"),
]
# ONNX Runtime Web sums in another order: logits differ by a few units of float32's last place.
TIE = 1e-3
WITH_KERNELS = ("tv3s", "tv3s-swin")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Path]]:
    """One browser for all families, the address of a server, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("families") / "site"
    write_site(read_bundle(FOLDER / "carry/bundle"), folder, PACKAGE)
    profile = tmp_path_factory.mktemp("profile")
    with serving(folder) as (url, _), chromium(profile) as browser:
        browser.get(url)
        yield browser, url, folder


@pytest.mark.parametrize(
    ("family", "kernels"),
    [(family, True) for family in FAMILIES] + [(family, False) for family in WITH_KERNELS],
)
def test_chromium_gives_the_labels_of_python(
    page: tuple[Any, str, Path],
    tiny_bundle: TinyBundle,
    family: str,
    tmp_path: Path,
    *,
    kernels: bool,
) -> None:
    browser, url, folder = page
    expected = record(tiny_bundle(family, "fp32"), tmp_path, native=False)
    name = f"{family.replace('+', 'p')}-{kernels}"
    write_site(read_bundle(expected.bundle), folder / name, PACKAGE)
    (folder / name / "frames.bin").write_bytes(expected.frames.tobytes())
    count, height, width = expected.labels.shape
    about = {"height": height, "width": width, "actions": ["step"] * count}
    about["frames"] = f"{name}/frames.bin"
    found = play(browser, url, f"{name}/bundle/", about, kernels=kernels)
    differs = found["labels"] != expected.labels
    assert expected.margins[differs].max(initial=0) < TIE
    assert differs.mean() < 1e-3
    parts = {len(timings) for timings in found["timings"]}
    assert parts == {9 if kernels and family in WITH_KERNELS else 1}
