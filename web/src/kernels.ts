import { StreamsegError } from "./errors.js";

/** Attributes of a windowed operator, as in the ONNX node. */
export interface Geometry {
  map_h: number;
  map_w: number;
  window_h: number;
  window_w: number;
  offset_h: number;
  offset_w: number;
}

interface Exports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  allocate(bytes: number): number;
  release(pointer: number): void;
  pack_decay(A: number, channels: number, states: number, out: number): void;
  conv(...values: number[]): void;
  scan(...values: number[]): void;
}

const LANES = 4;

/** The operators in WebAssembly, and the memory of their maps and states. */
export class Kernels {
  private constructor(private readonly exports: Exports) {}

  /** Compile kernels.wasm. Throws if the browser lacks WebAssembly SIMD. */
  static async load(bytes: BufferSource): Promise<Kernels> {
    try {
      const { instance } = await WebAssembly.instantiate(bytes, {});
      const exports = instance.exports as unknown as Exports;
      exports._initialize();
      return new Kernels(exports);
    } catch (error) {
      throw new StreamsegError(`cannot start the kernels; they need WebAssembly SIMD: ${(error as Error).message}`);
    }
  }

  /** Allocate memory for `count` float32 values; returns its address. */
  allocate(count: number): number {
    const pointer = this.exports.allocate(Math.max(count, 1) * 4);
    if (pointer === 0) throw new StreamsegError(`the kernels have no memory for ${count * 4} bytes`);
    return pointer;
  }

  release(pointer: number): void {
    this.exports.release(pointer);
  }

  /** A view of memory. It becomes invalid when more memory is allocated. */
  view(pointer: number, count: number): Float32Array {
    return new Float32Array(this.exports.memory.buffer, pointer, count);
  }

  /** Pack A for `scan`; returns the address of new memory. */
  packDecay(A: number, channels: number, states: number): number {
    const out = this.allocate(Math.ceil(channels / LANES) * LANES * states);
    this.exports.pack_decay(A, channels, states, out);
    return out;
  }

  /** Pointers: x, weight, bias, state, y, next state. */
  conv(geometry: Geometry, channels: number, taps: number, pointers: number[]): void {
    this.exports.conv(...attributes(geometry), channels, taps, ...pointers);
  }

  /** Pointers: u, dt, dt bias, A, B, C, skip, z, state, y, next state, packed decay. */
  scan(geometry: Geometry, channels: number, states: number, pointers: number[]): void {
    this.exports.scan(...attributes(geometry), channels, states, ...pointers);
  }
}

function attributes(g: Geometry): number[] {
  return [g.map_h, g.map_w, g.window_h, g.window_w, g.offset_h, g.offset_w];
}
