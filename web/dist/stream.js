import { MismatchError, StreamsegError } from "./errors.js";
import { bufferCount, planStep } from "./schedule.js";
import { elementCount, makeTensor, makeValues } from "./tensors.js";
/** One video through a bundle, with the state kept between frames. */
export class Stream {
    bundle;
    homes = new Map();
    scratch = new Map();
    packed = new Map();
    step_ = 0;
    busy = false;
    closed = false;
    constructor(bundle) {
        this.bundle = bundle;
        for (const spec of bundle.manifest.state)
            this.homes.set(spec.name, this.makeHome(spec));
        for (const part of [...bundle.graphs.values()].flat()) {
            if (part.kind !== "session")
                this.packed.set(part, this.loadConstants(part));
        }
    }
    /** Frames since the last reset. */
    get steps() {
        return this.step_;
    }
    /**
     * Segment one frame and advance the state.
     *
     * @param frame [height, width, 3] RGB bytes of the model's size.
     * Throws MismatchError for a frame of another size, and StreamsegError if a given state is missing
     * or another step is running. After any other error, reset the stream before the next step.
     */
    async step(frame) {
        const { shape } = this.bundle.manifest.frame;
        if (frame.length !== elementCount(shape)) {
            throw new MismatchError(`the frame has ${frame.length} bytes, expected ${elementCount(shape)} for [${shape}]`);
        }
        this.requireIdle();
        this.requireGiven();
        this.busy = true;
        try {
            const plan = planStep(this.bundle.manifest, this.step_);
            const result = await this.run(plan, frame);
            return { ...result, step: this.step_++ };
        }
        finally {
            this.busy = false;
        }
    }
    /** Reset the state; given states are kept. */
    reset() {
        this.requireIdle();
        this.step_ = 0;
        for (const spec of this.bundle.manifest.state) {
            if (spec.kind === "given")
                continue;
            this.writeState(spec, Array.from({ length: bufferCount(spec) }, () => makeValues(spec.dtype, spec.shape)));
        }
    }
    /** Set a state of kind "given". */
    give(name, values) {
        this.requireIdle();
        const spec = this.bundle.manifest.state.find((entry) => entry.name === name && entry.kind === "given");
        if (spec === undefined)
            throw new MismatchError(`the bundle has no given state '${name}'`);
        if (values.length !== elementCount(spec.shape)) {
            throw new MismatchError(`'${name}' has ${values.length} values, expected ${elementCount(spec.shape)}`);
        }
        this.writeState(spec, [values]);
        this.provided.add(name);
    }
    /** A copy of everything that the next step depends on. */
    async snapshot() {
        this.requireIdle();
        const tensors = new Map();
        for (const spec of this.bundle.manifest.state)
            tensors.set(spec.name, await this.readState(spec));
        return { step: this.step_, tensors };
    }
    /** Continue from a snapshot of a stream of the same bundle. */
    restore(snapshot) {
        this.requireIdle();
        for (const spec of this.bundle.manifest.state) {
            const buffers = snapshot.tensors.get(spec.name);
            const fits = buffers?.length === bufferCount(spec);
            if (!fits || buffers.some((values) => values.length !== elementCount(spec.shape))) {
                throw new MismatchError(`the snapshot does not fit state '${spec.name}'; it is of another bundle`);
            }
        }
        for (const spec of this.bundle.manifest.state)
            this.writeState(spec, snapshot.tensors.get(spec.name));
        this.step_ = snapshot.step;
    }
    /** Release the buffers. A second call does nothing. */
    close() {
        if (this.closed)
            return;
        this.requireIdle();
        this.closed = true;
        for (const home of this.homes.values()) {
            if ("pointers" in home)
                home.pointers.forEach((pointer) => this.kernels.release(pointer));
            else
                home.tensors.forEach((tensor) => tensor.dispose());
        }
        for (const { pointer } of this.scratch.values())
            this.kernels.release(pointer);
        for (const pointers of this.packed.values())
            pointers.forEach((pointer) => this.kernels.release(pointer));
    }
    provided = new Set();
    get kernels() {
        return this.bundle.kernels;
    }
    requireIdle() {
        if (this.closed)
            throw new StreamsegError("the stream is closed");
        if (this.busy)
            throw new StreamsegError("a step is under way; wait for it before the next call");
    }
    requireGiven() {
        for (const { name, init } of this.bundle.manifest.state) {
            if (init === "unset" && !this.provided.has(name)) {
                throw new StreamsegError(`state '${name}' is not set; call give('${name}', values) first`);
            }
        }
    }
    makeHome(spec) {
        const count = elementCount(spec.shape);
        const numbers = Array.from({ length: bufferCount(spec) }, (_, i) => i);
        if (this.inKernels(spec.name)) {
            const pointers = numbers.map(() => this.kernels.allocate(count));
            pointers.forEach((pointer) => this.kernels.view(pointer, count).fill(0));
            return { pointers };
        }
        const given = this.bundle.given.get(spec.name);
        const values = () => given?.slice() ?? makeValues(spec.dtype, spec.shape);
        return { tensors: numbers.map(() => makeTensor(this.bundle.ort, spec.dtype, values(), spec.shape)) };
    }
    /** Whether only kernels read and write a state: it then never leaves their memory. */
    inKernels(name) {
        const parts = [...this.bundle.graphs.values()].flat();
        const uses = (part) => [...part.inputs, ...part.outputs].some((entry) => isTensorOf(entry, name));
        const users = parts.filter(uses);
        return users.length > 0 && users.every((part) => part.kind !== "session");
    }
    loadConstants(part) {
        const pointers = Object.values(part.constants).map(({ offset, count }) => {
            const pointer = this.kernels.allocate(count);
            this.kernels.view(pointer, count).set(this.bundle.constants.subarray(offset, offset + count));
            return pointer;
        });
        if (part.kind === "scan") {
            const A = pointers[Object.keys(part.constants).indexOf("A")];
            pointers.push(this.kernels.packDecay(A, part.channels, part.depth));
        }
        return pointers;
    }
    async run(plan, frame) {
        const { ort, manifest } = this.bundle;
        const values = new Map();
        const addresses = new Map();
        values.set("frame", new ort.Tensor("uint8", frame, manifest.frame.shape));
        for (const feed of [...plan.reads, ...plan.writes]) {
            const home = this.homes.get(feed.state);
            if ("pointers" in home)
                addresses.set(feed.tensor, home.pointers[feed.buffer]);
            else if (feed.tensor.endsWith(".in"))
                values.set(feed.tensor, home.tensors[feed.buffer]);
        }
        const timings = [];
        for (const part of this.bundle.graphs.get(plan.graph)) {
            const started = performance.now();
            if (part.kind === "session") {
                await this.runSession(part.file, part.inputs, values, addresses);
            }
            else {
                this.runKernel(part, values, addresses);
            }
            timings.push(performance.now() - started);
        }
        this.keepState(plan, values);
        const logits = values.get("logits");
        const labels = (await values.get("labels").getData());
        return { labels, logits: logits ? (await logits.getData()) : null, timings };
    }
    async runSession(file, inputs, values, addresses) {
        const feeds = {};
        for (const name of inputs)
            feeds[name] = values.get(name) ?? this.tensorAt(name, addresses);
        const found = await this.bundle.sessions.get(file).run(feeds);
        for (const [name, tensor] of Object.entries(found))
            values.set(name, tensor);
    }
    /** A kernel's result as the input of a session: a view, which the session copies once. */
    tensorAt(name, addresses) {
        const { count, shape } = this.scratch.get(name);
        return makeTensor(this.bundle.ort, "float32", this.kernels.view(addresses.get(name), count), shape);
    }
    runKernel(part, values, addresses) {
        const tokens = part.geometry.map_h * part.geometry.map_w;
        const inputs = part.inputs.map((name) => this.addressOf(name, values, addresses));
        const [output, state] = part.outputs;
        const y = this.scratchFor(output, [1, tokens, part.channels]);
        addresses.set(output, y);
        const next = addresses.get(state);
        const constants = this.packed.get(part);
        if (part.kind === "conv") {
            const [x, old] = inputs;
            const [weight, bias] = constants;
            this.kernels.conv(part.geometry, part.channels, part.depth, [x, weight, bias, old, y, next]);
            return;
        }
        const [u, dt, B, C, z, old] = inputs;
        const [dtBias, A, skip, decay] = constants;
        const pointers = [u, dt, dtBias, A, B, C, skip, z, old, y, next, decay];
        this.kernels.scan(part.geometry, part.channels, part.depth, pointers);
    }
    addressOf(name, values, addresses) {
        const known = addresses.get(name);
        if (known !== undefined)
            return known;
        const tensor = values.get(name);
        const pointer = this.scratchFor(name, [...tensor.dims]);
        this.kernels.view(pointer, tensor.size).set(tensor.data);
        addresses.set(name, pointer);
        return pointer;
    }
    scratchFor(name, shape) {
        const found = this.scratch.get(name);
        if (found !== undefined)
            return found.pointer;
        const count = elementCount(shape);
        const pointer = this.kernels.allocate(count);
        this.scratch.set(name, { pointer, count, shape });
        return pointer;
    }
    /** The outputs of the sessions become the state; nothing is copied. */
    keepState(plan, values) {
        for (const feed of plan.writes) {
            const home = this.homes.get(feed.state);
            if ("pointers" in home)
                continue;
            const old = home.tensors[feed.buffer];
            home.tensors[feed.buffer] = values.get(feed.tensor);
            old.dispose();
        }
    }
    async readState(spec) {
        const home = this.homes.get(spec.name);
        if ("pointers" in home) {
            return home.pointers.map((pointer) => this.kernels.view(pointer, elementCount(spec.shape)).slice());
        }
        const found = [];
        for (const tensor of home.tensors) {
            // getData copies a tensor to the host, and it stays there: the next step uploads it.
            const values = (tensor.location === "cpu" ? tensor.data : await tensor.getData());
            found.push(values.slice());
        }
        return found;
    }
    writeState(spec, buffers) {
        const home = this.homes.get(spec.name);
        buffers.forEach((values, i) => {
            if ("pointers" in home) {
                this.kernels.view(home.pointers[i], values.length).set(values);
            }
            else {
                home.tensors[i]?.dispose();
                home.tensors[i] = makeTensor(this.bundle.ort, spec.dtype, values.slice(), spec.shape);
            }
        });
    }
}
function isTensorOf(tensor, state) {
    if (tensor === `${state}.in` || tensor === `${state}.out`)
        return true;
    return tensor.startsWith(`${state}.`) && /^\d+\.in$/.test(tensor.slice(state.length + 1));
}
