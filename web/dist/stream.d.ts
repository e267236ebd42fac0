import type { Bundle } from "./bundle.js";
import { type Values } from "./tensors.js";
/** What one step gives; the arrays belong to the caller. */
export interface StepResult {
    /** [height, width] class ids at the model's size. */
    labels: Uint8Array;
    /** [classes, height, width] at the model's size, where the bundle has them. */
    logits: Float32Array | null;
    /** Number of this frame since the last reset, from 0. */
    step: number;
    /** Milliseconds of each part of the graph, in the order of `Bundle.graphs`. */
    timings: number[];
}
/** A stream's state at one moment: the step counter, and every buffer of every state. */
export interface Snapshot {
    step: number;
    tensors: Map<string, Values[]>;
}
/** One video through a bundle, state kept between its frames. */
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
     * Throws MismatchError for a frame of another size, StreamsegError where a given state is missing
     * or another step is under way. After another failure, reset the stream before the next step.
     */
    step(frame: Uint8Array): Promise<StepResult>;
    /** Forget the state; given states stay. */
    reset(): void;
    /** Set a state of kind "given". */
    give(name: string, values: Values): void;
    /** Everything that the next step depends on, copied. */
    snapshot(): Promise<Snapshot>;
    /** Continue from a snapshot of a stream of the same bundle. */
    restore(snapshot: Snapshot): void;
    /** Release the buffers; closing twice is fine. */
    close(): void;
    private readonly provided;
    private get kernels();
    private requireIdle;
    private requireGiven;
    private makeHome;
    /** Whether kernels alone read and write a state: it then never leaves their memory. */
    private inKernels;
    private loadConstants;
    private run;
    private runSession;
    /** A kernel's result as a session's input: a view, which the session copies once. */
    private tensorAt;
    private runKernel;
    private addressOf;
    private scratchFor;
    /** What the sessions wrote becomes the state as it is; nothing is copied. */
    private keepState;
    private readState;
    private writeState;
}
