import { BundleError } from "./errors.js";
import { Kernels } from "./kernels.js";
import { parseManifest, type Manifest } from "./manifest.js";
import type { Part, SiteParts } from "./parts.js";
import { Stream } from "./stream.js";
import { readNpy, viewValues, type OrtModule, type Values } from "./tensors.js";
import type { InferenceSession } from "onnxruntime-web";

export interface OpenOptions {
  /** "wasm" runs on the processor, "webgpu" on the graphics card, with the state in its memory. */
  backend?: "wasm" | "webgpu";
  /** URL of kernels.wasm; without it the operators run as their lowering to standard operators. */
  kernels?: string;
  /** Replaces `fetch`, for example to load bundles from elsewhere or to test network failures. */
  fetch?: (url: string) => Promise<Response>;
}

/** A loaded bundle. Streams share its sessions; each has its own state. */
export class Bundle {
  private constructor(
    readonly ort: OrtModule,
    readonly manifest: Manifest,
    readonly backend: "wasm" | "webgpu",
    readonly kernels: Kernels | null,
    readonly graphs: ReadonlyMap<string, readonly Part[]>,
    readonly sessions: ReadonlyMap<string, InferenceSession>,
    readonly given: ReadonlyMap<string, Values>,
    readonly constants: Float32Array,
  ) {}

  /**
   * Fetch and verify the bundle below `url`, a folder that ends in "/".
   *
   * Throws BundleError if a file is missing, its SHA-256 differs, or the manifest is invalid.
   */
  static async open(ort: OrtModule, url: string, options: OpenOptions = {}): Promise<Bundle> {
    const files = new Files(url, options.fetch ?? ((target) => fetch(target)));
    const manifest = parseManifest(await files.text("manifest.json"));
    const backend = options.backend ?? "wasm";
    const fast = backend === "wasm" && options.kernels !== undefined;
    const parts = fast ? await readParts(files) : null;
    const kernels = parts === null ? null : await Kernels.load(await files.fetch(options.kernels!));
    const hashes = { ...manifest.files, ...parts?.files };
    const graphs = new Map<string, Part[]>();
    for (const [name, graph] of Object.entries(manifest.graphs)) {
      graphs.set(name, parts?.graphs[name] ?? [wholeGraph(graph.file)]);
    }
    const sessions = new Map<string, InferenceSession>();
    for (const part of [...graphs.values()].flat()) {
      if (part.kind !== "session" || sessions.has(part.file)) continue;
      const content = await files.verified(part.file, hashes);
      sessions.set(part.file, await makeSession(ort, content, backend));
    }
    for (const part of [...graphs.values()].flat()) fillNames(part, sessions);
    const given = await readGiven(files, manifest);
    const bytes = parts === null ? new Uint8Array(0) : await files.verified(parts.constants, hashes);
    const constants = viewValues("float32", bytes) as Float32Array;
    return new Bundle(ort, manifest, backend, kernels, graphs, sessions, given, constants);
  }

  /** Create a stream with an empty state. */
  stream(): Stream {
    return new Stream(this);
  }

  /** Release the sessions. The bundle's streams cannot run afterwards. */
  async close(): Promise<void> {
    for (const session of this.sessions.values()) await session.release();
  }
}

class Files {
  constructor(
    private readonly root: string,
    private readonly get: (url: string) => Promise<Response>,
  ) {}

  async fetch(url: string): Promise<Uint8Array<ArrayBuffer>> {
    const response = await this.get(url).catch((error: Error) => {
      throw new BundleError(`cannot fetch ${url}: ${error.message}`);
    });
    if (!response.ok) throw new BundleError(`cannot fetch ${url}: HTTP status ${response.status}`);
    return new Uint8Array(await response.arrayBuffer());
  }

  async text(name: string): Promise<string> {
    return new TextDecoder().decode(await this.fetch(this.root + name));
  }

  async exists(name: string): Promise<boolean> {
    return (await this.get(this.root + name)).ok;
  }

  async verified(name: string, hashes: Record<string, string>): Promise<Uint8Array<ArrayBuffer>> {
    const content = await this.fetch(this.root + name);
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const found = "sha256:" + Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== hashes[name]) {
      throw new BundleError(`${name} has ${found.slice(0, 19)}..., expected ${hashes[name]?.slice(0, 19)}...`);
    }
    return content;
  }
}

async function readParts(files: Files): Promise<SiteParts | null> {
  if (!(await files.exists("web.json"))) return null;
  const parts = JSON.parse(await files.text("web.json")) as SiteParts;
  if (parts.format !== 1) throw new BundleError(`web.json has format ${parts.format}, expected 1`);
  return parts;
}

function wholeGraph(file: string): Part {
  return { kind: "session", file, inputs: [], outputs: [] };
}

function fillNames(part: Part, sessions: Map<string, InferenceSession>): void {
  if (part.kind !== "session" || part.outputs.length > 0) return;
  const session = sessions.get(part.file)!;
  part.inputs = [...session.inputNames];
  part.outputs = [...session.outputNames];
}

async function makeSession(
  ort: OrtModule,
  content: Uint8Array,
  backend: "wasm" | "webgpu",
): Promise<InferenceSession> {
  const options: InferenceSession.SessionOptions = { executionProviders: [backend] };
  if (backend === "webgpu") {
    // Everything stays on the device except the labels, which are read back.
    const probe = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
    const names = probe.outputNames.filter((name) => name !== "labels" && name !== "logits");
    await probe.release();
    options.preferredOutputLocation = Object.fromEntries(names.map((name) => [name, "gpu-buffer"]));
  }
  return ort.InferenceSession.create(content, options);
}

async function readGiven(files: Files, manifest: Manifest): Promise<Map<string, Values>> {
  const found = new Map<string, Values>();
  for (const spec of manifest.state) {
    if (!spec.init.startsWith("file:")) continue;
    const array = readNpy(await files.verified(spec.init.slice(5), manifest.files));
    if (array.shape.join() !== spec.shape.join()) {
      throw new BundleError(`state '${spec.name}' has shape [${array.shape}], expected [${spec.shape}]`);
    }
    found.set(spec.name, viewValues(spec.dtype, array.data));
  }
  return found;
}
