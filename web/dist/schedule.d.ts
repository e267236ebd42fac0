import type { Manifest, ScheduleRow, StateSpec } from "./manifest.js";
/** The buffer of a graph's state input or output. */
export interface Feed {
    tensor: string;
    state: string;
    buffer: number;
}
/** One step: the graph to run, and the state buffers that it reads and writes. */
export interface StepPlan {
    graph: string;
    reads: Feed[];
    writes: Feed[];
}
/** Buffers of a state: a carried state alternates between two, so steps do not copy it. */
export declare function bufferCount(spec: StateSpec): number;
/** The last row of the table that covers step `step` (frames since reset). */
export declare function rowAt(schedule: ScheduleRow[], step: number): ScheduleRow;
/** The graph and buffers of step `step`, from the manifest's schedule. */
export declare function planStep(manifest: Manifest, step: number): StepPlan;
