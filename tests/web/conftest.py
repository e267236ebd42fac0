"""A site of the street sample, a local server, and headless Chromium."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.web.site import write_site
from tests.conftest import ROOT

PACKAGE = ROOT / "web/node_modules/onnxruntime-web"
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)

# A graphics card in software, which Chromium brings along.
WEBGPU_FLAGS = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--ignore-gpu-blocklist",
)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ARG002
        requests: list[str] = self.server.requests  # type: ignore[attr-defined]
        requests.append(str(args[0]))


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as any web server would; gives its address and the requests so far."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.requests = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", server.requests  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def chromium(profile: Path, *flags: str, gpu: bool = False) -> Iterator[Any]:
    """Headless Chromium with a new profile; ``gpu`` gives it a graphics card in software."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    general = [flag for flag in FLAGS if not (gpu and flag == "--disable-gpu")]
    for flag in (*general, *(WEBGPU_FLAGS if gpu else ()), f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        browser.set_script_timeout(240)
        yield browser
    finally:
        browser.quit()


WriteSite = Callable[..., Path]


@pytest.fixture(scope="session")
def site_of(tmp_path_factory: pytest.TempPathFactory) -> WriteSite:
    """Function of a bundle, a name and ``webgpu``: the folder of its site."""

    def write(bundle: Path, name: str, *, webgpu: bool = False) -> Path:
        target = tmp_path_factory.mktemp("site") / name
        write_site(read_bundle(bundle), target, PACKAGE, webgpu=webgpu)
        return target

    return write
