import { BundleError } from "./errors.js";
import { Kernels } from "./kernels.js";
import { parseManifest } from "./manifest.js";
import { Stream } from "./stream.js";
import { readNpy, viewValues } from "./tensors.js";
/** A loaded bundle. Streams share its sessions; each has its own state. */
export class Bundle {
    ort;
    manifest;
    backend;
    kernels;
    graphs;
    sessions;
    given;
    constants;
    constructor(ort, manifest, backend, kernels, graphs, sessions, given, constants) {
        this.ort = ort;
        this.manifest = manifest;
        this.backend = backend;
        this.kernels = kernels;
        this.graphs = graphs;
        this.sessions = sessions;
        this.given = given;
        this.constants = constants;
    }
    /**
     * Fetch and verify the bundle below `url`, a folder that ends in "/".
     *
     * Throws BundleError if a file is missing, its SHA-256 differs, or the manifest is invalid.
     */
    static async open(ort, url, options = {}) {
        const files = new Files(url, options.fetch ?? ((target) => fetch(target)));
        const manifest = parseManifest(await files.text("manifest.json"));
        const backend = options.backend ?? "wasm";
        const fast = backend === "wasm" && options.kernels !== undefined;
        const parts = fast ? await readParts(files) : null;
        const kernels = parts === null ? null : await Kernels.load(await files.fetch(options.kernels));
        const hashes = { ...manifest.files, ...parts?.files };
        const graphs = new Map();
        for (const [name, graph] of Object.entries(manifest.graphs)) {
            graphs.set(name, parts?.graphs[name] ?? [wholeGraph(graph.file)]);
        }
        const sessions = new Map();
        for (const part of [...graphs.values()].flat()) {
            if (part.kind !== "session" || sessions.has(part.file))
                continue;
            const content = await files.verified(part.file, hashes);
            sessions.set(part.file, await makeSession(ort, content, backend));
        }
        for (const part of [...graphs.values()].flat())
            fillNames(part, sessions);
        const given = await readGiven(files, manifest);
        const bytes = parts === null ? new Uint8Array(0) : await files.verified(parts.constants, hashes);
        const constants = viewValues("float32", bytes);
        return new Bundle(ort, manifest, backend, kernels, graphs, sessions, given, constants);
    }
    /** Create a stream with an empty state. */
    stream() {
        return new Stream(this);
    }
    /** Release the sessions. The bundle's streams cannot run afterwards. */
    async close() {
        for (const session of this.sessions.values())
            await session.release();
    }
}
class Files {
    root;
    get;
    constructor(root, get) {
        this.root = root;
        this.get = get;
    }
    async fetch(url) {
        const response = await this.get(url).catch((error) => {
            throw new BundleError(`cannot fetch ${url}: ${error.message}`);
        });
        if (!response.ok)
            throw new BundleError(`cannot fetch ${url}: HTTP status ${response.status}`);
        return new Uint8Array(await response.arrayBuffer());
    }
    async text(name) {
        return new TextDecoder().decode(await this.fetch(this.root + name));
    }
    async exists(name) {
        return (await this.get(this.root + name)).ok;
    }
    async verified(name, hashes) {
        const content = await this.fetch(this.root + name);
        const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
        const found = "sha256:" + Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
        if (found !== hashes[name]) {
            throw new BundleError(`${name} has ${found.slice(0, 19)}..., expected ${hashes[name]?.slice(0, 19)}...`);
        }
        return content;
    }
}
async function readParts(files) {
    if (!(await files.exists("web.json")))
        return null;
    const parts = JSON.parse(await files.text("web.json"));
    if (parts.format !== 1)
        throw new BundleError(`web.json has format ${parts.format}, expected 1`);
    return parts;
}
function wholeGraph(file) {
    return { kind: "session", file, inputs: [], outputs: [] };
}
function fillNames(part, sessions) {
    if (part.kind !== "session" || part.outputs.length > 0)
        return;
    const session = sessions.get(part.file);
    part.inputs = [...session.inputNames];
    part.outputs = [...session.outputNames];
}
async function makeSession(ort, content, backend) {
    const options = { executionProviders: [backend] };
    if (backend === "webgpu") {
        // Everything stays on the device except the labels, which are read back.
        const probe = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
        const names = probe.outputNames.filter((name) => name !== "labels" && name !== "logits");
        await probe.release();
        options.preferredOutputLocation = Object.fromEntries(names.map((name) => [name, "gpu-buffer"]));
    }
    return ort.InferenceSession.create(content, options);
}
async function readGiven(files, manifest) {
    const found = new Map();
    for (const spec of manifest.state) {
        if (!spec.init.startsWith("file:"))
            continue;
        const array = readNpy(await files.verified(spec.init.slice(5), manifest.files));
        if (array.shape.join() !== spec.shape.join()) {
            throw new BundleError(`state '${spec.name}' has shape [${array.shape}], expected [${spec.shape}]`);
        }
        found.set(spec.name, viewValues(spec.dtype, array.data));
    }
    return found;
}
