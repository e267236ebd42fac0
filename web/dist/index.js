export { Bundle } from "./bundle.js";
export { BundleError, MismatchError, StreamsegError } from "./errors.js";
export { nearestIndices, placeFrame, restoreLabels } from "./geometry.js";
export { Kernels } from "./kernels.js";
export { parseManifest } from "./manifest.js";
export { planStep } from "./schedule.js";
export { Stream } from "./stream.js";
