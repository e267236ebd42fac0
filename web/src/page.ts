// The demo page: a source of frames, the worker, and two pictures with figures.
import { placeFrame, type Region } from "./geometry.js";
import type { ClassInfo, Manifest } from "./manifest.js";
import { FrameSource, openCamera, openImages, openVideo } from "./sources.js";
import type { Answer, Request } from "./worker.js";

const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;

class Engine {
  private readonly worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  private readonly waiting: Array<(answer: Answer) => void> = [];

  constructor() {
    this.worker.onmessage = (event: MessageEvent<Answer>) => this.waiting.shift()?.(event.data);
    this.worker.onerror = (event) => this.waiting.shift()?.({ error: event.message });
  }

  async ask(request: Request): Promise<Answer> {
    const answer = new Promise<Answer>((resolve) => this.waiting.push(resolve));
    this.worker.postMessage(request, "frame" in request ? [request.frame.buffer] : []);
    const found = await answer;
    if ("error" in found) throw new Error(found.error);
    return found;
  }
}

/** Draws labels over the picture and counts the labels that change from frame to frame. */
class View {
  private before: Uint8Array | null = null;
  private readonly labelCanvas = document.createElement("canvas");
  private readonly context: CanvasRenderingContext2D;
  flicker = 0;

  constructor(private readonly canvas: HTMLCanvasElement, private readonly manifest: Manifest) {
    const [, height, width] = manifest.frame.shape;
    this.labelCanvas.width = width;
    this.labelCanvas.height = height;
    this.context = canvas.getContext("2d")!;
  }

  draw(picture: CanvasImageSource, size: { height: number; width: number }, labels: Uint8Array, region: Region): void {
    this.measure(labels);
    if (this.canvas.width !== size.width || this.canvas.height !== size.height) {
      this.canvas.width = size.width;
      this.canvas.height = size.height;
    }
    this.context.drawImage(picture, 0, 0, size.width, size.height);
    this.paint(labels);
    this.context.globalAlpha = Number(element<HTMLInputElement>("opacity").value) / 100;
    this.context.imageSmoothingEnabled = false;
    const { left, top, right, bottom } = region;
    this.context.drawImage(this.labelCanvas, left, top, right - left, bottom - top, 0, 0, size.width, size.height);
    this.context.globalAlpha = 1;
  }

  forget(): void {
    this.before = null;
  }

  private measure(labels: Uint8Array): void {
    if (this.before !== null) {
      let changed = 0;
      for (let i = 0; i < labels.length; i++) if (labels[i] !== this.before[i]) changed++;
      this.flicker = changed / labels.length;
    }
    this.before = labels.slice();
  }

  private paint(labels: Uint8Array): void {
    const context = this.labelCanvas.getContext("2d")!;
    const image = context.createImageData(this.labelCanvas.width, this.labelCanvas.height);
    const colors = this.manifest.classes.map((entry) => entry.color);
    for (let i = 0; i < labels.length; i++) {
      const color = colors[labels[i]!];
      if (color === undefined) continue;
      image.data.set(color, 4 * i);
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }
}

/** Reads frames at the model's size from a source. */
class Fitter {
  private readonly canvas: OffscreenCanvas;
  private readonly context: OffscreenCanvasRenderingContext2D;

  constructor(private readonly manifest: Manifest) {
    const [, height, width] = manifest.frame.shape;
    this.canvas = new OffscreenCanvas(width, height);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true })!;
  }

  fit(picture: CanvasImageSource, size: { height: number; width: number }): { frame: Uint8Array; region: Region } {
    const [, height, width] = this.manifest.frame.shape;
    const region = placeFrame(size, { height, width }, this.manifest.frame.resize);
    const [red, green, blue] = this.manifest.frame.mean;
    this.context.fillStyle = `rgb(${red} ${green} ${blue})`;
    this.context.fillRect(0, 0, width, height);
    const inner = [region.left, region.top, region.right - region.left, region.bottom - region.top] as const;
    this.context.drawImage(picture, ...inner);
    const pixels = this.context.getImageData(0, 0, width, height).data;
    const frame = new Uint8Array(height * width * 3);
    for (let from = 0, to = 0; to < frame.length; from += 4, to += 3) {
      frame[to] = pixels[from]!;
      frame[to + 1] = pixels[from + 1]!;
      frame[to + 2] = pixels[from + 2]!;
    }
    return { frame, region };
  }
}

function showLegend(classes: ClassInfo[]): void {
  const list = element("legend");
  for (const { name, color } of classes) {
    const item = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.style.background = `rgb(${color.join(" ")})`;
    item.append(swatch, name);
    list.append(item);
  }
}

function report(text: string, failed = false): void {
  const status = element("status");
  status.textContent = text;
  status.classList.toggle("failed", failed);
}

class Player {
  private source: FrameSource | null = null;
  private readonly fitter: Fitter;
  private readonly on: View;
  private readonly off: View;
  private frames = 0;

  constructor(private readonly engine: Engine, manifest: Manifest) {
    this.fitter = new Fitter(manifest);
    this.on = new View(element("with"), manifest);
    this.off = new View(element("without"), manifest);
  }

  async play(open: () => Promise<FrameSource>): Promise<void> {
    this.stop();
    try {
      const source = await open();
      this.source = source;
      await this.reset();
      while (this.source === source && (await source.next())) await this.step(source);
      if (this.source === source) report(`${this.frames} frames, the source has ended`);
    } catch (error) {
      report((error as Error).message, true);
    }
  }

  stop(): void {
    this.source?.close();
    this.source = null;
  }

  async reset(): Promise<void> {
    await this.engine.ask({ do: "reset" });
    this.on.forget();
    this.off.forget();
    this.frames = 0;
  }

  private async step(source: FrameSource): Promise<void> {
    const size = source.size();
    const still = await createImageBitmap(source.picture());
    const { frame, region } = this.fitter.fit(still, size);
    const stateless = element<HTMLInputElement>("compare").checked;
    const answer = await this.engine.ask({ do: "step", frame, stateless });
    if (!("labels" in answer)) return;
    this.on.draw(still, size, answer.labels, region);
    if (answer.without !== null) this.off.draw(still, size, answer.without, region);
    still.close();
    this.frames += 1;
    this.showFigures(answer.milliseconds, answer.without !== null);
  }

  private showFigures(milliseconds: number, compared: boolean): void {
    const percent = (value: number) => `${(100 * value).toFixed(2)} % of labels changed`;
    element("rate").textContent = `${milliseconds.toFixed(0)} ms a frame, ${(1000 / milliseconds).toFixed(1)} fps`;
    element("flicker-with").textContent = percent(this.on.flicker);
    element("flicker-without").textContent = compared ? percent(this.off.flicker) : "";
    report(`frame ${this.frames}`);
  }
}

async function start(): Promise<void> {
  const engine = new Engine();
  const backend = new URLSearchParams(location.search).get("backend") === "webgpu" ? "webgpu" : "wasm";
  report("Loading the network ...");
  const bundle = new URL("bundle/", location.href).href;
  const kernels = new URL("streamseg/kernels.wasm", location.href).href;
  const answer = await engine.ask({ do: "open", bundle, backend, kernels });
  if (!("manifest" in answer)) return;
  const manifest = answer.manifest as Manifest;
  showLegend(manifest.classes);
  const player = new Player(engine, manifest);
  element("camera").onclick = () => player.play(openCamera);
  element<HTMLInputElement>("files").onchange = (event) => {
    const files = [...((event.target as HTMLInputElement).files ?? [])];
    if (files.length > 0) void player.play(() => (isVideo(files) ? openVideo(files[0]!) : openImages(files)));
  };
  element("stop").onclick = () => player.stop();
  element("reset").onclick = () => player.reset();
  report("Ready. Choose a camera, a video or images.");
  document.body.dataset.ready = answer.backend;
}

function isVideo(files: File[]): boolean {
  return files.length === 1 && files[0]!.type.startsWith("video/");
}

start().catch((error: Error) => report(error.message, true));
