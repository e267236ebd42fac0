/** Attributes of a windowed operator, as in the ONNX node. */
export interface Geometry {
    map_h: number;
    map_w: number;
    window_h: number;
    window_w: number;
    offset_h: number;
    offset_w: number;
}
/** The operators in WebAssembly, and the memory of their maps and states. */
export declare class Kernels {
    private readonly exports;
    private constructor();
    /** Compile kernels.wasm. Throws if the browser lacks WebAssembly SIMD. */
    static load(bytes: BufferSource): Promise<Kernels>;
    /** Allocate memory for `count` float32 values; returns its address. */
    allocate(count: number): number;
    release(pointer: number): void;
    /** A view of memory. It becomes invalid when more memory is allocated. */
    view(pointer: number, count: number): Float32Array;
    /** Pack A for `scan`; returns the address of new memory. */
    packDecay(A: number, channels: number, states: number): number;
    /** Pointers: x, weight, bias, state, y, next state. */
    conv(geometry: Geometry, channels: number, taps: number, pointers: number[]): void;
    /** Pointers: u, dt, dt bias, A, B, C, skip, z, state, y, next state, packed decay. */
    scan(geometry: Geometry, channels: number, states: number, pointers: number[]): void;
}
