"""Time the street sample in headless Chromium: kernels between sessions, against plain lowering.

Needs chromedriver and web/node_modules (make web-tools). One thread, as in a page of a static host.
Writes benchmarks/results/web.json and web.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measuring import describe_machine
from streamseg._version import __version__
from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.web.onnxruntime_package import VERSION
from streamseg.web.site import write_site
from tests.web.conftest import PACKAGE, chromium, serving

RESULTS = Path(__file__).parent / "results"
OPEN = """
const done = arguments[0];
(async () => {
  const { Bundle } = await import("/streamseg/index.js");
  const ort = await import("/ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = "/ort/";
  ort.env.wasm.numThreads = 1;
  const fast = await Bundle.open(ort, "/bundle/", { kernels: "/streamseg/kernels.wasm" });
  const plain = await Bundle.open(ort, "/bundle/");
  window.streams = { kernels: fast.stream(), lowered: plain.stream() };
  window.kinds = [...fast.graphs.values()][0].map((part) => part.kind);
  done({ kinds: window.kinds });
})().catch((error) => done({ error: String(error) }));
"""
STEP = """
const [name, size, done] = arguments;
(async () => {
  const frame = crypto.getRandomValues(new Uint8Array(65536));
  const whole = new Uint8Array(size);
  for (let i = 0; i < size; i += 65536) whole.set(frame.subarray(0, Math.min(65536, size - i)), i);
  const started = performance.now();
  const { timings } = await window.streams[name].step(whole);
  const total = performance.now() - started;
  const copied = performance.now();
  await window.streams[name].snapshot();
  done({ total, timings, snapshot: performance.now() - copied });
})().catch((error) => done({ error: String(error) }));
"""


def measure(bundle: Path, rounds: int) -> dict[str, object]:
    """Medians over ``rounds`` interleaved steps of each way, after two to warm up."""
    opened = read_bundle(bundle)
    size = int(np.prod(opened.manifest.frame.shape))
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        write_site(opened, site, PACKAGE)
        with serving(site) as (url, _), chromium(Path(folder) / "profile") as browser:
            browser.get(url)
            kinds = browser.execute_async_script(OPEN)["kinds"]
            steps: dict[str, list[dict[str, object]]] = {"kernels": [], "lowered": []}
            for _ in range(rounds + 2):
                for name, found in steps.items():
                    found.append(browser.execute_async_script(STEP, name, size))
            version = browser.capabilities["browserVersion"]
    return {"browser": f"Chromium {version}", "frame": opened.manifest.frame.shape} | summarise(
        kinds, {name: found[2:] for name, found in steps.items()}
    )


def summarise(kinds: list[str], steps: dict[str, list[dict[str, object]]]) -> dict[str, object]:
    """Medians in milliseconds; the temporal layers are all parts but the first and the last."""
    parts = np.median([step["timings"] for step in steps["kernels"]], axis=0)
    kernels = sum(t for t, kind in zip(parts, kinds, strict=True) if kind != "session")
    totals = {
        name: statistics.median(step["total"] for step in found) for name, found in steps.items()
    }
    temporal = float(parts[1:-1].sum())
    rest = float(parts[0] + parts[-1])
    # What the plain lowering takes beyond the same rest is its temporal layers.
    lowered = totals["lowered"] - rest
    return {
        "step_ms": {name: round(total, 1) for name, total in totals.items()},
        "kernels_ms": round(float(kernels), 1),
        "temporal_ms": round(temporal, 1),
        "temporal_lowered_ms": round(lowered, 1),
        "rest_ms": round(rest, 1),
        "temporal_ratio": round(lowered / temporal, 2),
        "step_ratio": round(totals["lowered"] / totals["kernels"], 2),
        "state_copy_ms": round(statistics.median(s["snapshot"] for s in steps["kernels"]), 2),
        "frames_per_second": round(1000 / totals["kernels"], 2),
        "rounds": len(steps["kernels"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="the street sample at 256x512, exported")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    result = measure(arguments.bundle, arguments.rounds)
    result |= {"machine": describe_machine(1), "streamseg": __version__, "onnxruntime_web": VERSION}
    print(json.dumps(result, indent=1, default=str))
    (RESULTS / "web.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    (RESULTS / "web.md").write_text(PAGE.format(**result))


PAGE = """# In the browser

{browser}, headless, one thread with WebAssembly SIMD, ONNX Runtime Web {onnxruntime_web}, frame
{frame}; medians of {rounds} interleaved steps on {machine[processor]}.

| | kernels between sessions | plain lowering |
|---|---|---|
| step, ms | {step_ms[kernels]} | {step_ms[lowered]} |
| temporal layers, ms | {temporal_ms} | {temporal_lowered_ms} |
| rest of the network, ms | {rest_ms} | the same |

The temporal layers are {temporal_ratio} times faster than lowered, a step {step_ratio} times:
{frames_per_second} frames a second. The kernels keep the state in their memory, so that a step
copies none of it; one copy would cost {state_copy_ms} ms.

Made by `python -m benchmarks.web BUNDLE`.
"""


if __name__ == "__main__":
    main()
