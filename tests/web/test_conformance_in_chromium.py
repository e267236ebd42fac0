"""The browser runtime in real Chromium: conformance cases, and the operators' kernels."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance.write_cases import FOLDER
from tests.web.conftest import DRIVER, PACKAGE, WriteSite, chromium, serving

pytest.importorskip("selenium", reason="needs selenium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver here: run make browser-tools"),
    pytest.mark.skipif(not PACKAGE.is_dir(), reason="no onnxruntime-web: run make web-tools"),
]

PLAY = """
const [root, actions, framesUrl, useKernels, size, backend, done] = arguments;
(async () => {
  const { Bundle } = await import("/streamseg/index.js");
  const ort = await import(`/ort/ort.${backend}.min.mjs`);
  ort.env.wasm.wasmPaths = "/ort/";
  ort.env.wasm.numThreads = 1;
  const options = useKernels ? { backend, kernels: "/streamseg/kernels.wasm" } : { backend };
  const bundle = await Bundle.open(ort, root, options);
  const stream = bundle.stream();
  const frames = new Uint8Array(await (await fetch(framesUrl)).arrayBuffer());
  const kept = {}, labels = [], timings = [];
  let taken = 0, state = null;
  for (const action of actions) {
    const [verb, name] = action.split(" ");
    if (verb === "reset") stream.reset();
    else if (verb === "snapshot") kept[name] = await stream.snapshot();
    else if (verb === "restore") stream.restore(kept[name]);
    else {
      const result = await stream.step(frames.subarray(taken * size * 3, (taken + 1) * size * 3));
      labels.push(result.labels.slice());
      timings.push(result.timings);
      taken += 1;
    }
  }
  const flat = new Uint8Array(labels.length * size);
  labels.forEach((map, i) => flat.set(map, i * size));
  let text = "";
  for (let i = 0; i < flat.length; i += 8192) {
    text += String.fromCharCode(...flat.subarray(i, i + 8192));
  }
  const tensors = [...stream.homes.values()].flatMap((home) => home.tensors ?? []);
  const locations = tensors.map((tensor) => tensor.location);
  const snapshot = await stream.snapshot();
  const sums = Object.fromEntries([...snapshot.tensors].map(([name, buffers]) => {
    return [name, buffers.map((values) => Array.from(values).reduce((a, b) => a + Number(b), 0))];
  }));
  stream.close();
  await bundle.close();
  done({ locations, labels: btoa(text), timings, sums });
})().catch((error) => done({ error: String(error.stack ?? error) }));
"""

ADAPTER = """
const done = arguments[0];
(async () => {
  const adapter = await navigator.gpu?.requestAdapter();
  done(adapter ? { f16: adapter.features.has("shader-f16") } : null);
})().catch(() => done(null));
"""
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/case.json"))


def play(
    browser: Any,
    url: str,
    root: str,
    about: dict[str, Any],
    *,
    kernels: bool = False,
    backend: str = "wasm",
) -> Any:
    size = about["height"] * about["width"]
    arguments = (f"{url}{root}", about["actions"], f"{url}{about['frames']}", kernels, size)
    found = browser.execute_async_script(PLAY, *arguments, backend)
    assert "error" not in found, found["error"]
    labels = np.frombuffer(base64.b64decode(found["labels"]), np.uint8)
    found["labels"] = labels.reshape(-1, about["height"], about["width"])
    return found


def expect_labels(browser: Any, url: str, name: str, root: str, **options: Any) -> Any:
    about = json.loads((FOLDER / name / "case.json").read_text())
    about["frames"] = f"cases/{name}/frames.bin"
    found = play(browser, url, root, about, **options)
    expected = np.fromfile(FOLDER / name / "labels.bin", np.uint8)
    np.testing.assert_array_equal(found["labels"].ravel(), expected, err_msg=name)
    return found


def test_chromium_reproduces_the_conformance_set(site_of: WriteSite, tmp_path: Path) -> None:
    site = site_of(FOLDER / "carry/bundle", "conformance")
    shutil.copytree(FOLDER, site / "cases")
    with serving(site) as (url, _), chromium(tmp_path) as browser:
        browser.get(url)
        for name in NAMES:
            expect_labels(browser, url, name, f"cases/{name}/bundle/")


@pytest.fixture(scope="module")
def webgpu_page(
    site_of: WriteSite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, str]]:
    """A browser with a graphics card in software, and the site's address."""
    site = site_of(FOLDER / "carry/bundle", "webgpu", webgpu=True)
    shutil.copytree(FOLDER, site / "cases")
    with (
        serving(site) as (url, _),
        chromium(tmp_path_factory.mktemp("profile"), gpu=True) as browser,
    ):
        browser.get(url)
        if not browser.execute_async_script(ADAPTER):
            pytest.skip("this Chromium has no WebGPU adapter, not in software either")
        yield browser, url


@pytest.mark.parametrize("name", sorted({*NAMES} - {"dtypes"}))
def test_webgpu_reproduces_the_conformance_set(webgpu_page: tuple[Any, str], name: str) -> None:
    found = expect_labels(*webgpu_page, name, f"cases/{name}/bundle/", backend="webgpu")
    # Restored states are on the host until the next step writes them.
    carried = name in {"carry", "operators", "layers", "lowered"}
    if carried:
        assert "gpu-buffer" in found["locations"]
        assert found["locations"].count("cpu") <= len(found["locations"]) // 2


def test_webgpu_without_float16_refuses_a_state_of_it(webgpu_page: tuple[Any, str]) -> None:
    browser, url = webgpu_page
    if browser.execute_async_script(ADAPTER)["f16"]:
        expect_labels(browser, url, "dtypes", "cases/dtypes/bundle/", backend="webgpu")
        return
    with pytest.raises(AssertionError, match="requires f16 but the device does not support it"):
        expect_labels(browser, url, "dtypes", "cases/dtypes/bundle/", backend="webgpu")


def test_kernels_reproduce_the_case_of_the_operators(site_of: WriteSite, tmp_path: Path) -> None:
    site = site_of(FOLDER / "operators/bundle", "operators")
    shutil.copytree(FOLDER / "operators", site / "cases/operators")
    with serving(site) as (url, _), chromium(tmp_path) as browser:
        browser.get(url)
        found = expect_labels(browser, url, "operators", "bundle/", kernels=True)
    assert {len(timings) for timings in found["timings"]} == {9}
