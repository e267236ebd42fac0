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
    frame: {
        shape: [number, number, number, number];
        resize: "stretch" | "letterbox";
        mean: number[];
    };
    state: StateSpec[];
    graphs: Record<string, GraphSpec>;
    schedule: ScheduleRow[];
    classes: ClassInfo[];
    files: Record<string, string>;
}
/** Read manifest.json. Throws BundleError with the field, its value and what was expected. */
export declare function parseManifest(text: string): Manifest;
