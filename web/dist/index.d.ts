export { Bundle, type OpenOptions } from "./bundle.js";
export { BundleError, MismatchError, StreamsegError } from "./errors.js";
export { nearestIndices, placeFrame, restoreLabels, type Region, type Size } from "./geometry.js";
export { Kernels, type Geometry } from "./kernels.js";
export { parseManifest, type ClassInfo, type Manifest, type StateSpec } from "./manifest.js";
export { planStep, type StepPlan } from "./schedule.js";
export { Stream, type Snapshot, type StepResult } from "./stream.js";
