import type { Bundle } from "./bundle.js";
import { type Values } from "./tensors.js";
/** The result of one step; the arrays belong to the caller. */
export interface StepResult {
    /** [height, width] class ids at the model's size. */
    labels: Uint8Array;
    /** [classes, height, width] at the model's size, if the bundle has them. */
    logits: Float32Array | null;
    /** Number of this frame since the last reset, from 0. */
    step: number;
    /** Milliseconds per part of the graph, in the order of `Bundle.graphs`. */
    timings: number[];
}
/** A stream's state at one moment: the step counter, and every buffer of every state. */
export interface Snapshot {
    step: number;
    tensors: Map<string, Values[]>;
}
/** One video through a bundle, with the state kept between frames. */
export declare class Stream {
    readonly bundle: Bundle;
    private readonly homes;
    private readonly scratch;
    private readonly packed;
    private step_;
    private busy;
    private closed;
    constructor(bundle: Bundle);
    /** Frames since the last reset. */
    get steps(): number;
    /**
     * Segment one frame and advance the state.
     *
     * @param frame [height, width, 3] RGB bytes of the model's size.
     * Throws MismatchError for a frame of another size, and StreamsegError if a given state is missing
     * or another step is running. After any other error, reset the stream before the next step.
     */
    step(frame: Uint8Array): Promise<StepResult>;
    /** Reset the state; given states are kept. */
    reset(): void;
    /** Set a state of kind "given". */
    give(name: string, values: Values): void;
    /** A copy of everything that the next step depends on. */
    snapshot(): Promise<Snapshot>;
    /** Continue from a snapshot of a stream of the same bundle. */
    restore(snapshot: Snapshot): void;
    /** Release the buffers. A second call does nothing. */
    close(): void;
    private readonly provided;
    private get kernels();
    private requireIdle;
    private requireGiven;
    private makeHome;
    /** Whether only kernels read and write a state: it then never leaves their memory. */
    private inKernels;
    private loadConstants;
    private run;
    private runSession;
    /** A kernel's result as the input of a session: a view, which the session copies once. */
    private tensorAt;
    private runKernel;
    private addressOf;
    private scratchFor;
    /** The outputs of the sessions become the state; nothing is copied. */
    private keepState;
    private readState;
    private writeState;
}
