// The frame sources of the page.

/** Shows one picture after another. */
export interface FrameSource {
  /** Move to the next picture; false at the end. */
  next(): Promise<boolean>;
  picture(): CanvasImageSource & ImageBitmapSource;
  size(): { height: number; width: number };
  close(): void;
}

class VideoSource implements FrameSource {
  constructor(
    private readonly video: HTMLVideoElement,
    private readonly release: () => void,
  ) {}

  /** The newest frame; frames that arrived while the network was busy are dropped. */
  next(): Promise<boolean> {
    if (this.video.ended) return Promise.resolve(false);
    return new Promise((resolve) => {
      const finished = () => resolve(false);
      this.video.addEventListener("ended", finished, { once: true });
      this.video.requestVideoFrameCallback(() => {
        this.video.removeEventListener("ended", finished);
        resolve(true);
      });
    });
  }

  picture(): HTMLVideoElement {
    return this.video;
  }

  size(): { height: number; width: number } {
    return { height: this.video.videoHeight, width: this.video.videoWidth };
  }

  close(): void {
    this.video.pause();
    this.release();
  }
}

class ImageSource implements FrameSource {
  private current: ImageBitmap | null = null;

  constructor(private readonly files: File[]) {}

  async next(): Promise<boolean> {
    const file = this.files.shift();
    if (file === undefined) return false;
    this.current?.close();
    this.current = await createImageBitmap(file, { imageOrientation: "from-image" });
    return true;
  }

  picture(): ImageBitmap {
    return this.current!;
  }

  size(): { height: number; width: number } {
    return { height: this.current!.height, width: this.current!.width };
  }

  close(): void {
    this.files.length = 0;
  }
}

async function playing(video: HTMLVideoElement): Promise<HTMLVideoElement> {
  video.muted = true;
  video.playsInline = true;
  await video.play();
  return video;
}

/** The first camera; the browser asks for permission. */
export async function openCamera(): Promise<FrameSource> {
  const stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: false });
  const video = document.createElement("video");
  video.srcObject = stream;
  return new VideoSource(await playing(video), () => stream.getTracks().forEach((track) => track.stop()));
}

/** A local video file; it never leaves the browser. */
export async function openVideo(file: File): Promise<FrameSource> {
  const url = URL.createObjectURL(file);
  const video = document.createElement("video");
  video.src = url;
  return new VideoSource(await playing(video), () => URL.revokeObjectURL(url));
}

/** Images, ordered by name. */
export async function openImages(files: File[]): Promise<FrameSource> {
  const collator = new Intl.Collator("en", { numeric: true });
  return new ImageSource([...files].sort((a, b) => collator.compare(a.name, b.name)));
}
