/** Requests from the page. */
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
/** Replies of the worker; every request has one reply, in order. */
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
