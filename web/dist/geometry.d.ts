export interface Size {
    height: number;
    width: number;
}
/** Rows top..bottom and columns left..right of the model's frame that hold the picture. */
export interface Region {
    top: number;
    bottom: number;
    left: number;
    right: number;
}
/** Where a picture lands on the model's frame. */
export declare function placeFrame(frame: Size, model: Size, resize: "stretch" | "letterbox"): Region;
/** For each of `target` samples the source sample at its centre: floor((i + 0.5) * s / t). */
export declare function nearestIndices(source: number, target: number): Int32Array;
/** Labels at the frame's size by the nearest neighbour. */
export declare function restoreLabels(labels: Uint8Array, model: Size, region: Region, frame: Size): Uint8Array;
