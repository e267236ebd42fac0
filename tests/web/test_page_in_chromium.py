"""The demo page in Chromium with a fake camera: it runs, compares, resets and stays offline."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.runtime.smoothing import write_smoothing_bundle
from tests.web.conftest import DRIVER, PACKAGE, WriteSite, chromium, serving

pytest.importorskip("selenium", reason="needs selenium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver here: run make browser-tools"),
    pytest.mark.skipif(not PACKAGE.is_dir(), reason="no onnxruntime-web: run make web-tools"),
]
SIZE = (48, 64)


def wait_until(holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


def write_camera(path: Path, *, frames: int = 40) -> None:
    """A noisy clip as MJPEG, which Chromium plays as its fake camera."""
    rng = np.random.default_rng(3)
    with path.open("wb") as file:
        for _ in range(frames):
            noisy = rng.normal(110, 40, (96, 128, 3)).clip(0, 255).astype(np.uint8)
            file.write(cv2.imencode(".jpg", noisy)[1].tobytes())


def frame_number(browser: Any) -> int:
    found = re.search(r"frame (\d+)", browser.find_element("id", "status").text)
    return int(found.group(1)) if found else 0


def flicker(browser: Any, name: str) -> float:
    found = re.search(r"([\d.]+) %", browser.find_element("id", f"flicker-{name}").text)
    return float(found.group(1)) if found else 0.0


def test_camera_runs_with_and_without_state(site_of: WriteSite, tmp_path: Path) -> None:
    bundle = write_smoothing_bundle(tmp_path / "bundle", SIZE)
    site = site_of(bundle, "camera")
    write_camera(tmp_path / "camera.mjpeg")
    camera = f"--use-file-for-fake-video-capture={tmp_path / 'camera.mjpeg'}"
    with serving(site) as (url, requests), chromium(tmp_path / "profile", camera) as browser:
        browser.get(url)
        wait_until(lambda: browser.find_element("tag name", "body").get_attribute("data-ready"))
        assert len(browser.find_elements("css selector", "#legend li")) == 7
        browser.find_element("id", "camera").click()
        wait_until(lambda: frame_number(browser) >= 15)
        # Noise flips labels from frame to frame; the running mean of the state steadies them.
        assert 0 < flicker(browser, "with") < flicker(browser, "without")
        browser.find_element("id", "reset").click()
        wait_until(lambda: 0 < frame_number(browser) < 15)
        browser.find_element("id", "stop").click()
        # The page asks its own server only; the browser's log has no refused or failed request.
        assert browser.get_log("browser") == []
        assert all(request.startswith("GET /") for request in requests)


def test_images_play_in_the_order_of_their_names(site_of: WriteSite, tmp_path: Path) -> None:
    bundle = write_smoothing_bundle(tmp_path / "bundle", SIZE)
    site = site_of(bundle, "images")
    names = []
    for i, grey in enumerate((10, 10, 255)):
        names.append(str(tmp_path / f"{i}.png"))
        cv2.imwrite(names[-1], np.full((*SIZE, 3), grey, np.uint8))
    with serving(site) as (url, _), chromium(tmp_path / "profile") as browser:
        browser.get(url)
        wait_until(lambda: browser.find_element("tag name", "body").get_attribute("data-ready"))
        browser.find_element("id", "files").send_keys("\n".join(reversed(names)))
        wait_until(lambda: "3 frames" in browser.find_element("id", "status").text)
        # The last picture alone is white; every label of the stateless stream changes with it.
        assert flicker(browser, "without") == 100.0


def test_missing_bundle_is_reported_on_the_page(site_of: WriteSite, tmp_path: Path) -> None:
    bundle = write_smoothing_bundle(tmp_path / "bundle", SIZE)
    site = site_of(bundle, "damaged")
    graph = next((site / "bundle/web").glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    with serving(site) as (url, _), chromium(tmp_path / "profile") as browser:
        browser.get(url)
        status = browser.find_element("id", "status")
        wait_until(lambda: "failed" in status.get_attribute("class"))
        assert "expected sha256:" in status.text
