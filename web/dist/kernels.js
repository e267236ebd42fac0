import { StreamsegError } from "./errors.js";
const LANES = 4;
/** The operators in WebAssembly, and the memory of their maps and states. */
export class Kernels {
    exports;
    constructor(exports) {
        this.exports = exports;
    }
    /** Compile kernels.wasm. Throws if the browser lacks WebAssembly SIMD. */
    static async load(bytes) {
        try {
            const { instance } = await WebAssembly.instantiate(bytes, {});
            const exports = instance.exports;
            exports._initialize();
            return new Kernels(exports);
        }
        catch (error) {
            throw new StreamsegError(`cannot start the kernels; they need WebAssembly SIMD: ${error.message}`);
        }
    }
    /** Allocate memory for `count` float32 values; returns its address. */
    allocate(count) {
        const pointer = this.exports.allocate(Math.max(count, 1) * 4);
        if (pointer === 0)
            throw new StreamsegError(`the kernels have no memory for ${count * 4} bytes`);
        return pointer;
    }
    release(pointer) {
        this.exports.release(pointer);
    }
    /** A view of memory. It becomes invalid when more memory is allocated. */
    view(pointer, count) {
        return new Float32Array(this.exports.memory.buffer, pointer, count);
    }
    /** Pack A for `scan`; returns the address of new memory. */
    packDecay(A, channels, states) {
        const out = this.allocate(Math.ceil(channels / LANES) * LANES * states);
        this.exports.pack_decay(A, channels, states, out);
        return out;
    }
    /** Pointers: x, weight, bias, state, y, next state. */
    conv(geometry, channels, taps, pointers) {
        this.exports.conv(...attributes(geometry), channels, taps, ...pointers);
    }
    /** Pointers: u, dt, dt bias, A, B, C, skip, z, state, y, next state, packed decay. */
    scan(geometry, channels, states, pointers) {
        this.exports.scan(...attributes(geometry), channels, states, ...pointers);
    }
}
function attributes(g) {
    return [g.map_h, g.map_w, g.window_h, g.window_w, g.offset_h, g.offset_w];
}
