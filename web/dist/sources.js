// The frame sources of the page.
class VideoSource {
    video;
    release;
    constructor(video, release) {
        this.video = video;
        this.release = release;
    }
    /** The newest frame; frames that arrived while the network was busy are dropped. */
    next() {
        if (this.video.ended)
            return Promise.resolve(false);
        return new Promise((resolve) => {
            const finished = () => resolve(false);
            this.video.addEventListener("ended", finished, { once: true });
            this.video.requestVideoFrameCallback(() => {
                this.video.removeEventListener("ended", finished);
                resolve(true);
            });
        });
    }
    picture() {
        return this.video;
    }
    size() {
        return { height: this.video.videoHeight, width: this.video.videoWidth };
    }
    close() {
        this.video.pause();
        this.release();
    }
}
class ImageSource {
    files;
    current = null;
    constructor(files) {
        this.files = files;
    }
    async next() {
        const file = this.files.shift();
        if (file === undefined)
            return false;
        this.current?.close();
        this.current = await createImageBitmap(file, { imageOrientation: "from-image" });
        return true;
    }
    picture() {
        return this.current;
    }
    size() {
        return { height: this.current.height, width: this.current.width };
    }
    close() {
        this.files.length = 0;
    }
}
async function playing(video) {
    video.muted = true;
    video.playsInline = true;
    await video.play();
    return video;
}
/** The first camera; the browser asks for permission. */
export async function openCamera() {
    const stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: false });
    const video = document.createElement("video");
    video.srcObject = stream;
    return new VideoSource(await playing(video), () => stream.getTracks().forEach((track) => track.stop()));
}
/** A local video file; it never leaves the browser. */
export async function openVideo(file) {
    const url = URL.createObjectURL(file);
    const video = document.createElement("video");
    video.src = url;
    return new VideoSource(await playing(video), () => URL.revokeObjectURL(url));
}
/** Images, ordered by name. */
export async function openImages(files) {
    const collator = new Intl.Collator("en", { numeric: true });
    return new ImageSource([...files].sort((a, b) => collator.compare(a.name, b.name)));
}
