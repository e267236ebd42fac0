"""Make docs/images/serve.png: the web page over a synthetic scene, in headless Chromium.

Needs: make browser-tools, and pip install 'streamseg[serve]' selenium onnx pillow.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image
from selenium import webdriver
from smoothing_bundle import write_smoothing_bundle

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "serve.png"
SCENES = (
    "front=synthetic:clean?seed=7&size=192x384&fps=12&noise=16",
    "rear=synthetic:clean?seed=3",
)
URL = "http://127.0.0.1:8765/"


def take_picture() -> bytes:
    """A PNG of the page after half a minute, with and without state."""
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1000,930"):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(URL)
        time.sleep(5)
        browser.find_element("id", "compare").click()
        time.sleep(15)
        browser.find_element("id", "reset").click()
        time.sleep(15)
        picture: bytes = browser.get_screenshot_as_png()
        return picture
    finally:
        browser.quit()


def wait_for_server() -> None:
    """Return once the server answers."""
    while True:
        try:
            urlopen(f"{URL}healthz").close()
        except URLError:
            time.sleep(0.2)
        else:
            return


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_smoothing_bundle(Path(folder) / "bundle", (192, 384))
        sources = list(SCENES)
        command = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "serve"]
        command += [str(bundle), "--port", "8765", "--snapshots", folder, *sources]
        server = subprocess.Popen(command)
        try:
            wait_for_server()
            content = take_picture()
        finally:
            server.terminate()
            server.wait()
    TARGET.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(content)).convert("RGB").quantize(224).save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
