// Runs streams in a worker, so the page stays responsive during a step.
import { Bundle } from "./bundle.js";
let bundle = null;
let withState = null;
let withoutState = null;
let queue = Promise.resolve();
self.onmessage = (event) => {
    queue = queue.then(() => answer(event.data)).then(send, fail);
};
function send(reply) {
    const transfer = "labels" in reply ? [reply.labels.buffer] : [];
    self.postMessage(reply, transfer);
}
function fail(error) {
    send({ error: error.message });
}
async function answer(request) {
    if (request.do === "open")
        return open(request);
    if (bundle === null || withState === null)
        throw new Error("no bundle is open");
    if (request.do === "reset") {
        withState.reset();
        return { done: true };
    }
    const started = performance.now();
    const { labels, step } = await withState.step(request.frame);
    const milliseconds = performance.now() - started;
    let without = null;
    if (request.stateless) {
        withoutState ??= bundle.stream();
        withoutState.reset();
        without = (await withoutState.step(request.frame)).labels;
    }
    return { labels, without, milliseconds, step };
}
async function open(request) {
    const build = request.backend === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
    const ort = (await import(new URL(`../ort/${build}`, import.meta.url).href));
    ort.env.wasm.wasmPaths = new URL("../ort/", import.meta.url).href;
    ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    bundle = await Bundle.open(ort, request.bundle, request);
    withState = bundle.stream();
    return { manifest: bundle.manifest, backend: bundle.backend };
}
