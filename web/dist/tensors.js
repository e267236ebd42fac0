// Float16 values are passed as bits: many browsers do not have an array type for them yet.
const ARRAYS = {
    float32: Float32Array,
    float16: Uint16Array,
    uint8: Uint8Array,
    int32: Int32Array,
    int64: BigInt64Array,
};
export function elementCount(shape) {
    return shape.reduce((product, extent) => product * extent, 1);
}
/** A zeroed array for a tensor of this type and shape. */
export function makeValues(dtype, shape) {
    return new ARRAYS[dtype](elementCount(shape));
}
/** A view of bytes as values of this type; bytes that are not aligned are copied. */
export function viewValues(dtype, bytes) {
    const kind = ARRAYS[dtype];
    const aligned = bytes.byteOffset % kind.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
    return new kind(aligned.buffer, aligned.byteOffset, aligned.byteLength / kind.BYTES_PER_ELEMENT);
}
export function makeTensor(ort, dtype, values, shape) {
    return new ort.Tensor(dtype, values, shape);
}
/** The values of a .npy file (format 1 or 2, little-endian, C order), with its shape. */
export function readNpy(bytes) {
    const magic = String.fromCharCode(...bytes.subarray(1, 6));
    if (magic !== "NUMPY")
        throw new Error("not a .npy file");
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
