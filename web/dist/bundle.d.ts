import { Kernels } from "./kernels.js";
import { type Manifest } from "./manifest.js";
import type { Part } from "./parts.js";
import { Stream } from "./stream.js";
import { type OrtModule, type Values } from "./tensors.js";
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
     * Throws BundleError if a file is missing, its SHA-256 differs, or the manifest is invalid.
     */
    static open(ort: OrtModule, url: string, options?: OpenOptions): Promise<Bundle>;
    /** Create a stream with an empty state. */
    stream(): Stream;
    /** Release the sessions. The bundle's streams cannot run afterwards. */
    close(): Promise<void>;
}
