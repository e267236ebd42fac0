import type * as Ort from "onnxruntime-web";
import type { DataType } from "./manifest.js";
export type OrtModule = typeof Ort;
export type Tensor = Ort.Tensor;
export type Values = Float32Array | Uint8Array | Uint16Array | Int32Array | BigInt64Array;
export declare function elementCount(shape: readonly number[]): number;
/** A zeroed array for a tensor of this type and shape. */
export declare function makeValues(dtype: DataType, shape: readonly number[]): Values;
/** A view of bytes as values of this type; bytes that are not aligned are copied. */
export declare function viewValues(dtype: DataType, bytes: Uint8Array): Values;
export declare function makeTensor(ort: OrtModule, dtype: DataType, values: Values, shape: readonly number[]): Tensor;
/** The values of a .npy file (format 1 or 2, little-endian, C order), with its shape. */
export declare function readNpy(bytes: Uint8Array): {
    descr: string;
    shape: number[];
    data: Uint8Array;
};
