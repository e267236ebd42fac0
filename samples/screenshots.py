"""Make docs/images with headless Chromium: samples/screenshots.py BUNDLE INT8_BUNDLE SHEET.

``readme.png`` is README.md as HTML, ``serve.png`` and ``serve-phone.png`` are the page of
``streamseg serve`` over drawn drives, ``int8-report.png`` is the report of INT8_BUNDLE,
``drive.webp`` is a small copy of the contact sheet SHEET.
Needs: make browser-tools, and the extras dev, docs and serve.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import markdown
from PIL import Image
from selenium import webdriver

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
PORT = 8765
SOURCES = (
    "front=synthetic:clean?size=256x512&seed=2000000&fps=5",
    "rear=synthetic:clean?size=256x512&seed=2000003&fps=5",
)
DESKTOP, PHONE = (1280, 900), (390, 844)
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 880px; margin: 32px auto; color: #1f2328; }
table { border-collapse: collapse; } td, th { border: 1px solid #d1d9e0; padding: 4px 12px; }
pre { background: #f6f8fa; padding: 16px; } code { font-size: 85%; } img { max-width: 100%; }
"""


@contextmanager
def browsing(size: tuple[int, int]) -> Iterator[webdriver.Chrome]:
    """A browser whose page has this size."""
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        # Windows have a minimum width; device metrics do not.
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield browser
    finally:
        browser.quit()


def save(browser: webdriver.Chrome, name: str, colours: int = 200) -> None:
    """Write a screenshot of the browser, with few colours to keep the file small."""
    shown = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    target = IMAGES / name
    shown.quantize(colours).save(target, optimize=True)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")


def show_file(path: Path, name: str, height: int) -> None:
    """A picture of an HTML file's first ``height`` rows."""
    with browsing((1012, height)) as browser:
        browser.get(path.as_uri())
        time.sleep(1)
        save(browser, name)


def shrink(sheet: Path) -> None:
    """The contact sheet as a small file."""
    target = IMAGES / "drive.webp"
    Image.open(sheet).save(target, quality=60, method=6)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")


def show_readme() -> None:
    """README.md, as a reader of the repository sees it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    page = ROOT / "readme-screenshot.html"  # next to README.md, so the browser finds its pictures
    page.write_text(f"<meta charset=utf-8><style>{STYLE}</style>{body}", encoding="utf-8")
    try:
        show_file(page, "readme.png", 1400)
    finally:
        page.unlink()


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """The address of a running ``streamseg serve``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "streamseg.cli.main", "serve", str(bundle), *SOURCES]
        command += ["--loop", "--port", str(PORT), "--snapshots", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while server.poll() is None and not _answers():
                time.sleep(0.2)
            yield f"http://127.0.0.1:{PORT}/"
        finally:
            server.terminate()
            server.wait()


def _answers() -> bool:
    try:
        urlopen(f"http://127.0.0.1:{PORT}/healthz").close()
    except URLError:
        return False
    return True


def wait_for_frames(browser: webdriver.Chrome, count: int) -> None:
    """Return once the page has drawn ``count`` frames, or after two minutes."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        drawn = browser.find_element("tag name", "body").get_attribute("data-frames")
        if int(drawn or 0) >= count:
            return
        time.sleep(0.5)


def show_page(bundle: Path) -> None:
    """The page on a desktop and on a phone, with state and reset side by side."""
    with serving(bundle) as address:
        for size, name in ((DESKTOP, "serve.png"), (PHONE, "serve-phone.png")):
            with browsing(size) as browser:
                browser.get(address)
                wait_for_frames(browser, 20)
                save(browser, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("int8", type=Path, help="bundle that `streamseg calibrate` wrote")
    parser.add_argument("sheet", type=Path, help="picture that `streamseg run --sheet` wrote")
    arguments = parser.parse_args()
    shrink(arguments.sheet)
    show_readme()
    show_page(arguments.bundle)
    report = arguments.int8.resolve() / "calibration/report.html"
    show_file(report, "int8-report.png", 1400)


if __name__ == "__main__":
    main()
