import type * as Ort from "onnxruntime-web";
import type { DataType } from "./manifest.js";

export type OrtModule = typeof Ort;
export type Tensor = Ort.Tensor;
export type Values = Float32Array | Uint8Array | Uint16Array | Int32Array | BigInt64Array;

// Float16 values are passed as bits: many browsers do not have an array type for them yet.
const ARRAYS = {
  float32: Float32Array,
  float16: Uint16Array,
  uint8: Uint8Array,
  int32: Int32Array,
  int64: BigInt64Array,
} as const;

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/** A zeroed array for a tensor of this type and shape. */
export function makeValues(dtype: DataType, shape: readonly number[]): Values {
  return new ARRAYS[dtype](elementCount(shape));
}

/** A view of bytes as values of this type; bytes that are not aligned are copied. */
export function viewValues(dtype: DataType, bytes: Uint8Array): Values {
  const kind = ARRAYS[dtype];
  const aligned = bytes.byteOffset % kind.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  return new kind(aligned.buffer as ArrayBuffer, aligned.byteOffset, aligned.byteLength / kind.BYTES_PER_ELEMENT);
}

export function makeTensor(ort: OrtModule, dtype: DataType, values: Values, shape: readonly number[]): Tensor {
  return new ort.Tensor(dtype, values as never, shape);
}

/** The values of a .npy file (format 1 or 2, little-endian, C order), with its shape. */
export function readNpy(bytes: Uint8Array): { descr: string; shape: number[]; data: Uint8Array } {
  const magic = String.fromCharCode(...bytes.subarray(1, 6));
  if (magic !== "NUMPY") throw new Error("not a .npy file");
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const long = bytes[6] !== 1;
  const start = long ? 12 : 10;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const descr = /'descr': '([^']*)'/.exec(header)?.[1];
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1];
  if (descr === undefined || shape === undefined || !/'fortran_order': False/.test(header)) {
    throw new Error("a .npy file of a kind that is not supported");
  }
  const extents = shape.split(",").filter((part) => part.trim() !== "").map(Number);
  return { descr, shape: extents, data: bytes.subarray(start + length) };
}
