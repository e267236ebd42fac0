import type { Geometry } from "./kernels.js";

/** An ONNX file that runs part of a graph. */
export interface SessionPart {
  kind: "session";
  file: string;
  inputs: string[];
  outputs: string[];
}

/** One windowed operator between two such parts; shapes are without the batch of 1. */
export interface KernelPart {
  kind: "conv" | "scan";
  geometry: Geometry;
  channels: number;
  /** Taps of a convolution, states of a scan. */
  depth: number;
  /** Names of the maps and of the state, in the operator's order, without constants. */
  inputs: string[];
  /** Names of the map and of the state that it writes. */
  outputs: string[];
  /** Maps the name of a constant to its offset in the file of constants, in float32 values. */
  constants: Record<string, { offset: number; count: number }>;
}

export type Part = SessionPart | KernelPart;

/** How `streamseg web` has cut a bundle's graphs. */
export interface SiteParts {
  format: 1;
  constants: string;
  graphs: Record<string, Part[]>;
  files: Record<string, string>;
}
