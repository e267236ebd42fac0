"""Time the street sample in headless Chromium: kernels between sessions, against plain lowering.

Needs chromedriver and web/node_modules (make web-tools). Uses one thread, like a page of a static
host. The rest of the network is also profiled by operator. Writes benchmarks/results/web.json and
web.md.

    python -m benchmarks.web out/street --int8 out/street-int8
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

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
# ONNX Runtime Web prints its profile to the console.
PROFILE = """
const [file, name, size, rounds, done] = arguments;
(async () => {
  const ort = await import("/ort/ort.wasm.min.mjs");
  const content = new Uint8Array(await (await fetch(file)).arrayBuffer());
  const options = { executionProviders: ["wasm"], enableProfiling: true };
  const session = await ort.InferenceSession.create(content, options);
  for (let i = 0; i < rounds; i++) {
    const frame = Uint8Array.from({ length: size }, (_, at) => (at * 31 + i) % 251);
    const feeds = { [name]: new ort.Tensor("uint8", frame, session.inputMetadata[0].shape) };
    await session.run(feeds);
  }
  session.endProfiling();
  done({});
})().catch((error) => done({ error: String(error) }));
"""


def profile(browser: Any, size: int, rounds: int) -> dict[str, tuple[int, float]]:
    """Number of nodes and milliseconds per step by operator, before the temporal layers."""
    browser.get_log("browser")
    arguments = ("/bundle/web/step.0.onnx", "frame", size, rounds + 2)
    assert "error" not in browser.execute_async_script(PROFILE, *arguments)
    events = []
    for entry in browser.get_log("browser"):
        text = entry["message"].partition(' "')[2]
        line = json.loads(f'"{text}').strip().rstrip(",") if text else ""
        events += [json.loads(line)] if line.startswith("{") else []
    runs = [event for event in events if event["name"] == "model_run"][2:]
    totals = [Counter[str]() for _ in runs]
    counts = Counter[str]()
    for event in events:
        if event["cat"] != "Node" or not event["name"].endswith("kernel_time"):
            continue
        for total, run in zip(totals, runs, strict=True):
            if run["ts"] <= event["ts"] <= run["ts"] + run["dur"]:
                total[event["args"]["op_name"]] += event["dur"] / 1000
                counts[event["args"]["op_name"]] += 1
    medians = {name: statistics.median(total[name] for total in totals) for name in counts}
    ordered = sorted(medians, key=lambda name: -medians[name])
    return {name: (counts[name] // len(runs), round(medians[name], 1)) for name in ordered}


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
            operators = profile(browser, size, rounds)
            version = browser.capabilities["browserVersion"]
    about = {"browser": f"Chromium {version}", "frame": opened.manifest.frame.shape}
    summary = summarise(kinds, {name: found[2:] for name, found in steps.items()})
    return about | summary | {"operators_ms": operators}


def summarise(kinds: list[str], steps: dict[str, list[dict[str, object]]]) -> dict[str, object]:
    """Medians in milliseconds; the temporal layers are all parts except the first and the last."""
    parts = np.median([step["timings"] for step in steps["kernels"]], axis=0)
    kernels = sum(t for t, kind in zip(parts, kinds, strict=True) if kind != "session")
    totals = {
        name: statistics.median(step["total"] for step in found) for name, found in steps.items()
    }
    temporal = float(parts[1:-1].sum())
    rest = float(parts[0] + parts[-1])
    # The temporal layers of the plain lowering take its total time minus the rest.
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
    parser.add_argument("--int8", type=Path, help="the same, calibrated")
    arguments = parser.parse_args()
    result = measure(arguments.bundle, arguments.rounds)
    if arguments.int8 is not None:
        result["int8"] = measure(arguments.int8, arguments.rounds)
    result |= {"machine": describe_machine(1), "streamseg": __version__, "onnxruntime_web": VERSION}
    print(json.dumps(result, indent=1, default=str))
    (RESULTS / "web.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    (RESULTS / "web.md").write_text(page(result))


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    text = PAGE.format(**result)
    if "int8" in result:
        text += INT8.format(**result["int8"])
    text += OPERATORS
    text += "".join(
        f"| {name} | {count} | {milliseconds} |\n"
        for name, (count, milliseconds) in result["operators_ms"].items()
        if milliseconds >= 1
    )
    return text + "\nMade by `python -m benchmarks.web BUNDLE --int8 BUNDLE`.\n"


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
"""
INT8 = """
Calibrated to INT8 (`streamseg calibrate`): a step {step_ms[kernels]} ms, {frames_per_second} frames
a second.
"""
OPERATORS = """
The part before the temporal layers by operator, from ONNX Runtime Web's own profile (medians;
operators of 1 ms or more a step):

| operator | nodes | ms a step |
|---|---|---|
"""


if __name__ == "__main__":
    main()
