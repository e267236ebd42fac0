import { BundleError } from "./errors.js";
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
export function bufferCount(spec: StateSpec): number {
  return spec.kind === "carry" ? 2 : spec.slots;
}

/** The last row of the table that covers step `step` (frames since reset). */
export function rowAt(schedule: ScheduleRow[], step: number): ScheduleRow {
  for (let i = schedule.length - 1; i >= 0; i--) {
    const row = schedule[i]!;
    if (step >= row.from && (step - row.from) % row.every === 0) return row;
  }
  throw new BundleError(`manifest.json: 'schedule' leaves step ${step} without a graph`);
}

/** The graph and buffers of step `step`, from the manifest's schedule. */
export function planStep(manifest: Manifest, step: number): StepPlan {
  const row = rowAt(manifest.schedule, step);
  const graph = manifest.graphs[row.graph]!;
  const table = new Map(manifest.state.map((spec) => [spec.name, spec]));
  const reads = graph.reads.flatMap((name) => readFeeds(table.get(name)!, step, row.ages[name]));
  const writes = graph.writes.map((name) => ({
    tensor: `${name}.out`,
    state: name,
    buffer: writeIndex(table.get(name)!, step),
  }));
  return { graph: row.graph, reads, writes };
}

function readFeeds(spec: StateSpec, step: number, ages: number[] | undefined): Feed[] {
  const { name, kind, slots } = spec;
  if (kind !== "ring") {
    return [{ tensor: `${name}.in`, state: name, buffer: kind === "carry" ? step % 2 : 0 }];
  }
  return (ages ?? [1]).map((age, i) => ({
    tensor: `${name}.${i}.in`,
    state: name,
    buffer: (((step - age) % slots) + slots) % slots,
  }));
}

function writeIndex(spec: StateSpec, step: number): number {
  return spec.kind === "carry" ? (step + 1) % 2 : step % spec.slots;
}
