/** What the page sends. */
export type Request = {
    do: "open";
    bundle: string;
    backend: "wasm" | "webgpu";
    kernels?: string;
} | {
    do: "step";
    frame: Uint8Array;
    stateless: boolean;
} | {
    do: "reset";
};
/** What the worker answers; every request has one answer, in order. */
export type Answer = {
    manifest: unknown;
    backend: string;
} | {
    labels: Uint8Array;
    without: Uint8Array | null;
    milliseconds: number;
    step: number;
} | {
    done: true;
} | {
    error: string;
};
