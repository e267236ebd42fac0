export interface Size {
    height: number;
    width: number;
}
/** The picture is in rows top..bottom and columns left..right of the model's frame. */
export interface Region {
    top: number;
    bottom: number;
    left: number;
    right: number;
}
/** The place of a picture in the model's frame. */
export declare function placeFrame(frame: Size, model: Size, resize: "stretch" | "letterbox"): Region;
/** The source sample at the centre of each of `target` samples: floor((i + 0.5) * s / t). */
export declare function nearestIndices(source: number, target: number): Int32Array;
/** Labels resized to the frame's size by nearest neighbour. */
export declare function restoreLabels(labels: Uint8Array, model: Size, region: Region, frame: Size): Uint8Array;
