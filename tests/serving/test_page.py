"""The web page in real headless Chromium, served by ``streamseg serve`` as a user starts it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import cv2
import numpy as np
import pytest

from streamseg.runtime.video.resize import Image
from tests.runtime.smoothing import write_smoothing_bundle

webdriver = pytest.importorskip("selenium.webdriver", reason="the page's test needs selenium")
pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")

DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver here: run make browser-tools"),
    pytest.mark.timeout(300),
]
SIZE = (96, 192)
SCENE = "synthetic:clean?seed=7&size=96x192&fps=12&noise=16"
WAIT = 60.0
TOKEN = "a-token-for-the-browser"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smoothing_bundle(tmp_path_factory.mktemp("page") / "bundle", SIZE)


@contextmanager
def serving(
    bundle: Path, *options: str, port: int = 0, token: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of its own process; gives its address."""
    if port == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "serve"]
    arguments = [str(bundle), "--port", str(port), "--threads", "1", *options]
    environment = {**os.environ, "STREAMSEG_TOKEN": token, "OMP_NUM_THREADS": "1"}
    log = bundle.parent / f"serve-{port}.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            command + arguments, env=environment, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}/"

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        try:
            with urlopen(f"{url}healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(answers)
        yield url, server
    finally:
        server.terminate()
        assert server.wait(30) == 128 + signal.SIGTERM, log.read_text()


@contextmanager
def browsing() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1200,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    browser = webdriver.Chrome(options=options, service=service)
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


def wait_until(condition: Callable[[], object], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def text_of(browser: Any, name: str) -> str:
    text: str = browser.find_element("id", name).text
    return text


def frames_of(browser: Any) -> int:
    return int(browser.find_element("tag name", "body").get_attribute("data-frames") or 0)


def share_of(text: str) -> float:
    return float(re.findall(r"[\d.]+", text)[0])


def picture_of(browser: Any) -> Image:
    """What the left picture looks like on the screen."""
    content = browser.find_element("class name", "picture").screenshot_as_png
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))


def set_slider(browser: Any, value: int) -> None:
    browser.execute_script(
        "const s = document.getElementById('opacity'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'))",
        value,
    )


def errors_of(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def metric(url: str, name: str) -> float:
    with urlopen(f"{url}metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_page_shows_moving_frames_figures_and_classes(bundle: Path, browser: Any) -> None:
    with serving(bundle, f"front={SCENE}") as (url, _):
        browser.get(url)
        wait_until(lambda: frames_of(browser) > 3)
        assert text_of(browser, "status") == "live"
        before, first = frames_of(browser), picture_of(browser)
        wait_until(lambda: frames_of(browser) > before + 5)
        assert np.mean(cv2.absdiff(picture_of(browser), first) > 8) > 0.01
        rows = browser.find_elements("css selector", "#legend li")
        names = [row.find_element("class name", "name").get_attribute("title") for row in rows]
        assert names == ["dark", "grey", "bright", "blue", "green", "brown", "red"]
        # In one call: the page continues between two.
        bars = browser.execute_script(
            "return [...document.querySelectorAll('#legend li')].map((row) => ["
            "row.querySelector('.share').textContent, row.querySelector('.bar i').style.width])"
        )
        shares = [share_of(text) for text, _ in bars]
        assert sum(shares) == pytest.approx(100, abs=1)
        assert [share_of(width) for _, width in bars] == pytest.approx(shares, abs=0.06)
        assert max(row.find_element("css selector", ".bar i").size["width"] for row in rows) > 0
        assert share_of(text_of(browser, "fps")) > 0
        assert "ms" in text_of(browser, "latency")
        # The list of streams, sent every few seconds, may be from before the source was open.
        wait_until(lambda: text_of(browser, "source") == SCENE)
        assert "start" in text_of(browser, "events")
        drawn = "return document.getElementById('graph').getContext('2d')"
        drawn += ".getImageData(0, 0, 300, 100).data.some((v) => v > 0)"
        assert browser.execute_script(drawn)
        assert errors_of(browser) == []


def test_opacity_blends_in_the_browser(bundle: Path, browser: Any) -> None:
    """0 is the frame, 100 is flat class colours; neither asks the server for anything."""
    with serving(bundle, SCENE) as (url, _):
        browser.get(url)
        wait_until(lambda: frames_of(browser) > 3)
        colors = {}
        for value in (0, 100):
            set_slider(browser, value)
            picture = picture_of(browser)
            colors[value] = len(np.unique(picture.reshape(-1, 3), axis=0))
        assert colors[100] < 200 < colors[0]


def test_reset_and_snapshot_buttons(bundle: Path, browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "states"
    with serving(bundle, SCENE, "--snapshots", str(folder)) as (url, _):
        browser.get(url)
        wait_until(lambda: frames_of(browser) > 8)
        browser.find_element("id", "reset").click()
        wait_until(lambda: "reset (request)" in text_of(browser, "events"))
        assert text_of(browser, "answer") == "state forgotten"
        assert metric(url, "streamseg_resets_total") == 1
        wait_until(lambda: frames_of(browser) > 3)
        browser.find_element("id", "snapshot").click()
        wait_until(lambda: "state saved" in text_of(browser, "answer"))
        (file,) = folder.iterdir()
        assert file.name in text_of(browser, "answer")
        assert "snapshot" in text_of(browser, "events")


def test_side_by_side_flickers_more_without_state(bundle: Path, browser: Any) -> None:
    with serving(bundle, SCENE) as (url, _):
        browser.get(url)
        wait_until(lambda: frames_of(browser) > 3)
        assert not browser.find_element("id", "plain-side").is_displayed()
        browser.find_element("id", "compare").click()
        wait_until(lambda: text_of(browser, "plain-flicker"))
        start = frames_of(browser)
        wait_until(lambda: frames_of(browser) > start + 20)
        kept, plain = (share_of(text_of(browser, i)) for i in ("flicker", "plain-flicker"))
        assert 0 < kept < plain
        shown = [
            browser.execute_script(
                "return document.getElementById(arguments[0]).toDataURL()", canvas
            )
            for canvas in ("labels", "plain-labels")
        ]
        assert shown[0] != shown[1]
        browser.find_element("id", "compare").click()
        wait_until(lambda: not browser.find_element("id", "plain-side").is_displayed())


def test_two_viewers_see_the_same_stream_for_one_encode(bundle: Path, browser: Any) -> None:
    with serving(bundle, SCENE) as (url, _), browsing() as other:
        for one in (browser, other):
            one.get(url)
        wait_until(lambda: frames_of(browser) > 5 and frames_of(other) > 5)
        assert metric(url, "streamseg_viewers") == 2
        encoded, frames = (
            metric(url, "streamseg_page_encoded_total"),
            metric(url, "streamseg_frames_total"),
        )
        start = frames_of(browser), frames_of(other)
        wait_until(lambda: frames_of(browser) > start[0] + 10 and frames_of(other) > start[1] + 10)
        more_encoded = metric(url, "streamseg_page_encoded_total") - encoded
        assert more_encoded <= metric(url, "streamseg_frames_total") - frames + 2


def test_page_comes_back_after_a_restart_of_the_server(bundle: Path, browser: Any) -> None:
    with serving(bundle, SCENE) as (url, _):
        browser.get(url)
        wait_until(lambda: frames_of(browser) > 3)
    wait_until(lambda: text_of(browser, "status") == "reconnecting")
    seen = frames_of(browser)
    with serving(bundle, SCENE, port=int(url.split(":")[2].strip("/"))):
        wait_until(lambda: frames_of(browser) > seen + 3)
        assert text_of(browser, "status") == "live"


def test_streams_are_chosen_and_come_and_go(bundle: Path, browser: Any, tmp_path: Path) -> None:
    listed = tmp_path / "streams.toml"
    front, rear = (f'[streams.{name}]\nsource = "{SCENE}"\n' for name in ("front", "rear"))
    listed.write_text(front + rear)
    with serving(bundle, "--streams", str(listed)) as (url, server):
        browser.get(f"{url}?stream=rear")
        wait_until(lambda: frames_of(browser) > 3)
        choice = browser.find_element("id", "streams")
        assert [o.text for o in choice.find_elements("tag name", "option")] == ["front", "rear"]
        assert choice.get_attribute("value") == "rear"
        listed.write_text(front)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: not choice.is_displayed())
        seen = frames_of(browser)
        wait_until(lambda: frames_of(browser) > seen + 3)
        assert browser.current_url.endswith("?stream=front")


def test_token_is_requested_once(bundle: Path, browser: Any) -> None:
    with serving(bundle, SCENE, token=TOKEN) as (url, _):
        browser.get(url)
        field = browser.find_element("id", "token")
        field.send_keys("wrong-token")
        field.submit()
        wait_until(lambda: browser.find_elements("id", "token"))
        browser.find_element("id", "token").send_keys(TOKEN)
        browser.find_element("id", "token").submit()
        wait_until(lambda: frames_of(browser) > 3)
        assert TOKEN not in browser.current_url
        assert TOKEN not in browser.execute_script("return document.cookie")
        browser.get(url)
        wait_until(lambda: frames_of(browser) > 3)


def test_page_fits_a_phone(bundle: Path) -> None:
    with serving(bundle, SCENE) as (url, _), browsing() as phone:
        metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        phone.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        phone.get(url)
        wait_until(lambda: frames_of(phone) > 3)
        phone.find_element("id", "compare").click()
        wait_until(lambda: phone.find_element("id", "plain-side").is_displayed())
        assert phone.execute_script("return document.documentElement.scrollWidth") == 390
        for element in phone.find_elements("css selector", "button, input[type=range], canvas"):
            if element.is_displayed():
                box = element.rect
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= 390
        left, right = (phone.find_element("id", i).rect for i in ("frame", "plain-frame"))
        assert right["y"] > left["y"]


def shown_at_once(browser: Any, *names: str) -> list[str]:
    """Which of these selectors have no element that is whole on the screen without scrolling."""
    script = """
        const shown = (element) => {
          const box = element.getBoundingClientRect();
          const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
          return box.height > 0 && box.top >= 0 && box.bottom <= window.innerHeight
            && element.contains(document.elementFromPoint(x, y));
        };
        return arguments[0].filter((name) => ![...document.querySelectorAll(name)].some(shown));
    """
    missing: list[str] = browser.execute_script(script, list(names))
    return missing


FIGURES = (".picture", "#fps", "#latency", "#legend li", "#events li")


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_classes_speed_and_events_are_seen_without_scrolling(
    width: int, height: int, bundle: Path, browser: Any
) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    with serving(bundle, SCENE) as (url, _):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            browser.get(url)
            wait_until(lambda: frames_of(browser) > 3)
            wait_until(lambda: not shown_at_once(browser, *FIGURES), 5)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def press(browser: Any, keys: str) -> None:
    browser.find_element("tag name", "body").send_keys(keys)


def test_grid_shows_every_stream_and_leads_to_one(bundle: Path, browser: Any) -> None:
    with serving(bundle, *(f"{name}={SCENE}" for name in ("a", "b", "c"))) as (url, _):
        browser.get(url)
        errors_of(browser)  # those of earlier pages, whose servers have ended
        wait_until(lambda: frames_of(browser) > 2)
        wait_until(lambda: browser.find_element("id", "all").is_displayed())
        press(browser, "g")
        tiles = {
            t.get_attribute("data-stream"): t
            for t in browser.find_elements("css selector", "#grid button")
        }
        assert list(tiles) == ["a", "b", "c"]
        assert not browser.find_element("id", "single").is_displayed()
        wait_until(
            lambda: all(int(t.get_attribute("data-frames") or 0) > 2 for t in tiles.values())
        )
        assert metric(url, "streamseg_viewers") == 3
        assert all("fps" in tile.text for tile in tiles.values())
        tiles["b"].click()
        seen = frames_of(browser)
        wait_until(lambda: frames_of(browser) > seen + 2)
        assert browser.current_url.endswith("?stream=b")
        assert not browser.find_element("id", "grid").is_displayed()
        wait_until(lambda: metric(url, "streamseg_viewers") == 1)
        assert errors_of(browser) == []


def test_keys_do_what_the_list_shows(bundle: Path, browser: Any) -> None:
    from selenium.webdriver import Keys

    with serving(bundle, f"a={SCENE}", f"b={SCENE}") as (url, _):
        browser.get(f"{url}?stream=a")
        errors_of(browser)
        wait_until(lambda: frames_of(browser) > 2)
        wait_until(lambda: browser.find_element("id", "all").is_displayed())
        for key, stream in (
            (Keys.ARROW_RIGHT, "b"),
            (Keys.ARROW_RIGHT, "a"),
            (Keys.ARROW_LEFT, "b"),
        ):
            press(browser, key)
            assert browser.current_url.endswith(f"?stream={stream}")
            assert browser.find_element("id", "streams").get_attribute("value") == stream
        press(browser, "+")
        assert browser.find_element("id", "opacity").get_attribute("value") == "60"
        press(browser, "-")
        press(browser, "-")
        assert browser.find_element("id", "opacity").get_attribute("value") == "40"
        seen = frames_of(browser)
        wait_until(lambda: frames_of(browser) > seen + 2)
        press(browser, "c")
        wait_until(lambda: browser.find_element("id", "plain-side").is_displayed())
        press(browser, "f")
        full = "return document.fullscreenElement && document.fullscreenElement.id"
        wait_until(lambda: browser.execute_script(full) == "pictures")
        press(browser, "f")
        wait_until(lambda: browser.execute_script(full) is None)
        press(browser, "R")
        wait_until(lambda: "reset (request)" in text_of(browser, "events"))
        press(browser, "?")
        dialog = browser.find_element("id", "keys")
        assert dialog.is_displayed()
        assert "full screen" in dialog.text
        dialog.find_element("tag name", "button").click()
        assert not dialog.is_displayed()
        assert errors_of(browser) == []
