// Runs streams in a worker, so the page stays responsive during a step.
import { Bundle } from "./bundle.js";
import type { Stream } from "./stream.js";
import type { OrtModule } from "./tensors.js";

/** Requests from the page. */
export type Request =
  | { do: "open"; bundle: string; backend: "wasm" | "webgpu"; kernels?: string }
  | { do: "step"; frame: Uint8Array; stateless: boolean }
  | { do: "reset" };

/** Replies of the worker; every request has one reply, in order. */
export type Answer =
  | { manifest: unknown; backend: string }
  | { labels: Uint8Array; without: Uint8Array | null; milliseconds: number; step: number }
  | { done: true }
  | { error: string };

let bundle: Bundle | null = null;
let withState: Stream | null = null;
let withoutState: Stream | null = null;
let queue: Promise<void> = Promise.resolve();

self.onmessage = (event: MessageEvent<Request>) => {
  queue = queue.then(() => answer(event.data)).then(send, fail);
};

function send(reply: Answer): void {
  const transfer = "labels" in reply ? [reply.labels.buffer] : [];
  (self as unknown as Worker).postMessage(reply, transfer as Transferable[]);
}

function fail(error: Error): void {
  send({ error: error.message });
}

async function answer(request: Request): Promise<Answer> {
  if (request.do === "open") return open(request);
  if (bundle === null || withState === null) throw new Error("no bundle is open");
  if (request.do === "reset") {
    withState.reset();
    return { done: true };
  }
  const started = performance.now();
  const { labels, step } = await withState.step(request.frame);
  const milliseconds = performance.now() - started;
  let without: Uint8Array | null = null;
  if (request.stateless) {
    withoutState ??= bundle.stream();
    withoutState.reset();
    without = (await withoutState.step(request.frame)).labels;
  }
  return { labels, without, milliseconds, step };
}

async function open(request: Extract<Request, { do: "open" }>): Promise<Answer> {
  const build = request.backend === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  const ort = (await import(new URL(`../ort/${build}`, import.meta.url).href)) as OrtModule;
  ort.env.wasm.wasmPaths = new URL("../ort/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  bundle = await Bundle.open(ort, request.bundle, request);
  withState = bundle.stream();
  return { manifest: bundle.manifest, backend: bundle.backend };
}
