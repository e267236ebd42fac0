import { Kernels } from "./kernels.js";
import { type Manifest } from "./manifest.js";
import type { Part } from "./parts.js";
import { Stream } from "./stream.js";
import { type OrtModule, type Values } from "./tensors.js";
import type { InferenceSession } from "onnxruntime-web";
export interface OpenOptions {
    /** "wasm" runs on the processor, "webgpu" on the graphics card with state in its memory. */
    backend?: "wasm" | "webgpu";
    /** URL of kernels.wasm; without it the operators run as the graph's own standard operators. */
    kernels?: string;
    /** Fetches a file; for tests of failing networks and for bundles from elsewhere. */
    fetch?: (url: string) => Promise<Response>;
}
/** A loaded bundle. Streams share its sessions; each has a state of its own. */
export declare class Bundle {
    readonly ort: OrtModule;
    readonly manifest: Manifest;
    readonly backend: "wasm" | "webgpu";
    readonly kernels: Kernels | null;
    readonly graphs: ReadonlyMap<string, readonly Part[]>;
    readonly sessions: ReadonlyMap<string, InferenceSession>;
    readonly given: ReadonlyMap<string, Values>;
    readonly constants: Float32Array;
    private constructor();
    /**
     * Fetch and verify the bundle below `url`, a folder that ends in "/".
     *
     * Throws BundleError where a file is missing, its SHA-256 differs, or the manifest is invalid.
     */
    static open(ort: OrtModule, url: string, options?: OpenOptions): Promise<Bundle>;
    /** A stream whose state is empty. */
    stream(): Stream;
    /** Release the sessions; the bundle's streams must not run afterwards. */
    close(): Promise<void>;
}
