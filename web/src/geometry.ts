import { MismatchError } from "./errors.js";

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
export function placeFrame(frame: Size, model: Size, resize: "stretch" | "letterbox"): Region {
  if (Math.min(frame.height, frame.width) < 1) {
    throw new MismatchError(`the frame is ${frame.height}x${frame.width}, expected positive HxW`);
  }
  if (resize === "stretch") return { top: 0, bottom: model.height, left: 0, right: model.width };
  const scale = Math.min(model.height / frame.height, model.width / frame.width);
  const height = Math.min(model.height, Math.max(1, roundHalfEven(frame.height * scale)));
  const width = Math.min(model.width, Math.max(1, roundHalfEven(frame.width * scale)));
  const top = Math.floor((model.height - height) / 2);
  const left = Math.floor((model.width - width) / 2);
  return { top, bottom: top + height, left, right: left + width };
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The source sample at the centre of each of `target` samples: floor((i + 0.5) * s / t). */
export function nearestIndices(source: number, target: number): Int32Array {
  return Int32Array.from({ length: target }, (_, i) => Math.floor(((2 * i + 1) * source) / (2 * target)));
}

/** Labels resized to the frame's size by nearest neighbour. */
export function restoreLabels(labels: Uint8Array, model: Size, region: Region, frame: Size): Uint8Array {
  const rows = nearestIndices(region.bottom - region.top, frame.height);
  const columns = nearestIndices(region.right - region.left, frame.width);
  const out = new Uint8Array(frame.height * frame.width);
  for (let y = 0; y < frame.height; y++) {
    const from = (region.top + rows[y]!) * model.width + region.left;
    for (let x = 0; x < frame.width; x++) out[y * frame.width + x] = labels[from + columns[x]!]!;
  }
  return out;
}
