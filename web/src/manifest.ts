import { BundleError } from "./errors.js";

export type Kind = "carry" | "ring" | "key" | "given";
export type DataType = "float32" | "float16" | "uint8" | "int32" | "int64";

/** One row of the state table. */
export interface StateSpec {
  name: string;
  shape: number[];
  dtype: DataType;
  init: string;
  kind: Kind;
  slots: number;
}

export interface GraphSpec {
  file: string;
  reads: string[];
  writes: string[];
  outputs: string[];
  ring_reads: Record<string, number>;
}

export interface ScheduleRow {
  from: number;
  graph: string;
  every: number;
  ages: Record<string, number[]>;
}

export interface ClassInfo {
  id: number;
  name: string;
  color: [number, number, number];
}

/** The manifest of a bundle; docs/bundle-format.md describes every field. */
export interface Manifest {
  format: number;
  model: Record<string, unknown>;
  frame: { shape: [number, number, number, number]; resize: "stretch" | "letterbox"; mean: number[] };
  state: StateSpec[];
  graphs: Record<string, GraphSpec>;
  schedule: ScheduleRow[];
  classes: ClassInfo[];
  files: Record<string, string>;
}

const FORMAT = 1;
const KINDS = ["carry", "ring", "key", "given"];
const TYPES = ["float32", "float16", "uint8", "int32", "int64"];

/** Read manifest.json. Throws BundleError with the field, its value and what was expected. */
export function parseManifest(text: string): Manifest {
  let content: any;
  try {
    content = JSON.parse(text);
  } catch (error) {
    throw new BundleError(`manifest.json is not valid JSON: ${(error as Error).message}`);
  }
  require(isObject(content), "the manifest", content, "an object");
  if (content.format !== FORMAT) {
    throw new BundleError(
      `the bundle has format ${content.format}, this runtime reads format ${FORMAT}; use a newer one`,
    );
  }
  readFrame(content.frame);
  for (const name of ["state", "schedule", "classes"]) {
    require(Array.isArray(content[name]), name, content[name], "an array");
  }
  for (const name of ["graphs", "files"]) {
    require(isObject(content[name]), name, content[name], "an object");
  }
  content.state.forEach((spec: any, i: number) => readState(spec, `state[${i}]`));
  for (const [name, graph] of Object.entries(content.graphs)) readGraph(graph as any, `graphs.${name}`);
  content.schedule.forEach((row: any, i: number) => readRow(row, `schedule[${i}]`, content.graphs));
  checkReferences(content);
  return content as Manifest;
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function require(holds: boolean, place: string, value: unknown, expected: string): void {
  if (holds) return;
  const shown = JSON.stringify(value) ?? "missing";
  throw new BundleError(`manifest.json: '${place}' is ${shown.slice(0, 80)}, expected ${expected}`);
}

function isCount(value: unknown, least = 0): boolean {
  return Number.isInteger(value) && (value as number) >= least;
}

function isNames(value: unknown): boolean {
  return Array.isArray(value) && value.every((entry) => typeof entry === "string");
}

function isInnerPath(value: unknown): boolean {
  if (typeof value !== "string" || value === "" || /[\\:?#]/.test(value)) return false;
  return value.split("/").every((part) => part !== "" && part !== "." && part !== "..");
}

function readFrame(frame: any): void {
  require(isObject(frame), "frame", frame, "an object");
  const shape = frame.shape;
  const fits = Array.isArray(shape) && shape.length === 4 && shape.every((extent) => isCount(extent, 1));
  require(fits && shape[0] === 1 && shape[3] === 3, "frame.shape", shape, "[1, height, width, 3]");
  require(frame.dtype === "uint8", "frame.dtype", frame.dtype, "uint8");
  require(frame.color === "rgb", "frame.color", frame.color, "rgb");
  require(["stretch", "letterbox"].includes(frame.resize), "frame.resize", frame.resize, "stretch or letterbox");
}

function readState(spec: any, place: string): void {
  require(isObject(spec), place, spec, "an object");
  require(typeof spec.name === "string", `${place}.name`, spec.name, "a name");
  const shape = spec.shape;
  require(Array.isArray(shape) && shape.every((extent) => isCount(extent, 1)), `${place}.shape`, shape, "extents");
  require(TYPES.includes(spec.dtype), `${place}.dtype`, spec.dtype, TYPES.join(", "));
  require(KINDS.includes(spec.kind), `${place}.kind`, spec.kind, KINDS.join(", "));
  spec.slots ??= 1;
  require(isCount(spec.slots, 1), `${place}.slots`, spec.slots, "a whole number from 1");
  const file = typeof spec.init === "string" && spec.init.startsWith("file:") && isInnerPath(spec.init.slice(5));
  const fits = spec.kind === "given" ? spec.init === "unset" || file : spec.init === "zeros";
  require(fits, `${place}.init`, spec.init, spec.kind === "given" ? "unset or file:PATH" : "zeros");
}

function readGraph(graph: any, place: string): void {
  require(isObject(graph), place, graph, "an object");
  require(isInnerPath(graph.file), `${place}.file`, graph.file, "a plain relative path");
  for (const field of ["reads", "writes", "outputs"]) {
    require(isNames(graph[field]), `${place}.${field}`, graph[field], "an array of names");
  }
  require(graph.outputs.includes("labels"), `${place}.outputs`, graph.outputs, "labels and perhaps logits");
  graph.ring_reads ??= {};
}

function readRow(row: any, place: string, graphs: any): void {
  require(isObject(row), place, row, "an object");
  require(isCount(row.from), `${place}.from`, row.from, "a whole number");
  require(row.graph in graphs, `${place}.graph`, row.graph, "the name of a graph");
  row.every ??= 1;
  row.ages ??= {};
  require(isCount(row.every, 1), `${place}.every`, row.every, "a whole number from 1");
  for (const [ring, ages] of Object.entries(row.ages)) {
    const fits = Array.isArray(ages) && ages.every((age) => isCount(age, 1) && age <= row.from);
    require(fits, `${place}.ages.${ring}`, ages, `ages from 1 to ${row.from}`);
  }
}

function checkReferences(manifest: Manifest): void {
  const names = new Set(manifest.state.map((spec) => spec.name));
  require(names.size === manifest.state.length, "state", [...names], "names that differ");
  const ids = manifest.classes.map((entry) => entry.id);
  require(ids.length > 0 && ids.every((id, i) => id === i), "classes", ids, "the ids 0, 1, 2, ... in order");
  for (const [name, graph] of Object.entries(manifest.graphs)) {
    for (const state of [...graph.reads, ...graph.writes]) {
      require(names.has(state), `graphs.${name}`, state, "a state of the table");
    }
    require(graph.file in manifest.files, `graphs.${name}.file`, graph.file, "a file with a SHA-256");
  }
  const whole = manifest.schedule.some((row) => row.from === 0 && row.every === 1);
  require(whole, "schedule", manifest.schedule.length, "a row that covers every step");
}
