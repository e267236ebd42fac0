// The demo page: a source of frames, the worker, and two pictures with figures.
import { placeFrame } from "./geometry.js";
import { openCamera, openImages, openVideo } from "./sources.js";
const element = (id) => document.getElementById(id);
class Engine {
    worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    waiting = [];
    constructor() {
        this.worker.onmessage = (event) => this.waiting.shift()?.(event.data);
        this.worker.onerror = (event) => this.waiting.shift()?.({ error: event.message });
    }
    async ask(request) {
        const answer = new Promise((resolve) => this.waiting.push(resolve));
        this.worker.postMessage(request, "frame" in request ? [request.frame.buffer] : []);
        const found = await answer;
        if ("error" in found)
            throw new Error(found.error);
        return found;
    }
}
/** Draws labels over the picture and counts the labels that change from frame to frame. */
class View {
    canvas;
    manifest;
    before = null;
    labelCanvas = document.createElement("canvas");
    context;
    flicker = 0;
    constructor(canvas, manifest) {
        this.canvas = canvas;
        this.manifest = manifest;
        const [, height, width] = manifest.frame.shape;
        this.labelCanvas.width = width;
        this.labelCanvas.height = height;
        this.context = canvas.getContext("2d");
    }
    draw(picture, size, labels, region) {
        this.measure(labels);
        if (this.canvas.width !== size.width || this.canvas.height !== size.height) {
            this.canvas.width = size.width;
            this.canvas.height = size.height;
        }
        this.context.drawImage(picture, 0, 0, size.width, size.height);
        this.paint(labels);
        this.context.globalAlpha = Number(element("opacity").value) / 100;
        this.context.imageSmoothingEnabled = false;
        const { left, top, right, bottom } = region;
        this.context.drawImage(this.labelCanvas, left, top, right - left, bottom - top, 0, 0, size.width, size.height);
        this.context.globalAlpha = 1;
    }
    forget() {
        this.before = null;
    }
    measure(labels) {
        if (this.before !== null) {
            let changed = 0;
            for (let i = 0; i < labels.length; i++)
                if (labels[i] !== this.before[i])
                    changed++;
            this.flicker = changed / labels.length;
        }
        this.before = labels.slice();
    }
    paint(labels) {
        const context = this.labelCanvas.getContext("2d");
        const image = context.createImageData(this.labelCanvas.width, this.labelCanvas.height);
        const colors = this.manifest.classes.map((entry) => entry.color);
        for (let i = 0; i < labels.length; i++) {
            const color = colors[labels[i]];
            if (color === undefined)
                continue;
            image.data.set(color, 4 * i);
            image.data[4 * i + 3] = 255;
        }
        context.putImageData(image, 0, 0);
    }
}
/** Reads frames at the model's size from a source. */
class Fitter {
    manifest;
    canvas;
    context;
    constructor(manifest) {
        this.manifest = manifest;
        const [, height, width] = manifest.frame.shape;
        this.canvas = new OffscreenCanvas(width, height);
        this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    }
    fit(picture, size) {
        const [, height, width] = this.manifest.frame.shape;
        const region = placeFrame(size, { height, width }, this.manifest.frame.resize);
        const [red, green, blue] = this.manifest.frame.mean;
        this.context.fillStyle = `rgb(${red} ${green} ${blue})`;
        this.context.fillRect(0, 0, width, height);
        const inner = [region.left, region.top, region.right - region.left, region.bottom - region.top];
        this.context.drawImage(picture, ...inner);
        const pixels = this.context.getImageData(0, 0, width, height).data;
        const frame = new Uint8Array(height * width * 3);
        for (let from = 0, to = 0; to < frame.length; from += 4, to += 3) {
            frame[to] = pixels[from];
            frame[to + 1] = pixels[from + 1];
            frame[to + 2] = pixels[from + 2];
        }
        return { frame, region };
    }
}
function showLegend(classes) {
    const list = element("legend");
    for (const { name, color } of classes) {
        const item = document.createElement("li");
        const swatch = document.createElement("span");
        swatch.style.background = `rgb(${color.join(" ")})`;
        item.append(swatch, name);
        list.append(item);
    }
}
function report(text, failed = false) {
    const status = element("status");
    status.textContent = text;
    status.classList.toggle("failed", failed);
}
class Player {
    engine;
    source = null;
    fitter;
    on;
    off;
    frames = 0;
    constructor(engine, manifest) {
        this.engine = engine;
        this.fitter = new Fitter(manifest);
        this.on = new View(element("with"), manifest);
        this.off = new View(element("without"), manifest);
    }
    async play(open) {
        this.stop();
        try {
            const source = await open();
            this.source = source;
            await this.reset();
            while (this.source === source && (await source.next()))
                await this.step(source);
            if (this.source === source)
                report(`${this.frames} frames, the source has ended`);
        }
        catch (error) {
            report(error.message, true);
        }
    }
    stop() {
        this.source?.close();
        this.source = null;
    }
    async reset() {
        await this.engine.ask({ do: "reset" });
        this.on.forget();
        this.off.forget();
        this.frames = 0;
    }
    async step(source) {
        const size = source.size();
        const still = await createImageBitmap(source.picture());
        const { frame, region } = this.fitter.fit(still, size);
        const stateless = element("compare").checked;
        const answer = await this.engine.ask({ do: "step", frame, stateless });
        if (!("labels" in answer))
            return;
        this.on.draw(still, size, answer.labels, region);
        if (answer.without !== null)
            this.off.draw(still, size, answer.without, region);
        still.close();
        this.frames += 1;
        this.showFigures(answer.milliseconds, answer.without !== null);
    }
    showFigures(milliseconds, compared) {
        const percent = (value) => `${(100 * value).toFixed(2)} % of labels changed`;
        element("rate").textContent = `${milliseconds.toFixed(0)} ms a frame, ${(1000 / milliseconds).toFixed(1)} fps`;
        element("flicker-with").textContent = percent(this.on.flicker);
        element("flicker-without").textContent = compared ? percent(this.off.flicker) : "";
        report(`frame ${this.frames}`);
    }
}
async function start() {
    const engine = new Engine();
    const backend = new URLSearchParams(location.search).get("backend") === "webgpu" ? "webgpu" : "wasm";
    report("Loading the network ...");
    const bundle = new URL("bundle/", location.href).href;
    const kernels = new URL("streamseg/kernels.wasm", location.href).href;
    const answer = await engine.ask({ do: "open", bundle, backend, kernels });
    if (!("manifest" in answer))
        return;
    const manifest = answer.manifest;
    showLegend(manifest.classes);
    const player = new Player(engine, manifest);
    element("camera").onclick = () => player.play(openCamera);
    element("files").onchange = (event) => {
        const files = [...(event.target.files ?? [])];
        if (files.length > 0)
            void player.play(() => (isVideo(files) ? openVideo(files[0]) : openImages(files)));
    };
    element("stop").onclick = () => player.stop();
    element("reset").onclick = () => player.reset();
    report("Ready. Choose a camera, a video or images.");
    document.body.dataset.ready = answer.backend;
}
function isVideo(files) {
    return files.length === 1 && files[0].type.startsWith("video/");
}
start().catch((error) => report(error.message, true));
