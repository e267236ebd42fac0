/** Shows one picture after another. */
export interface FrameSource {
    /** Move to the next picture; false at the end. */
    next(): Promise<boolean>;
    picture(): CanvasImageSource & ImageBitmapSource;
    size(): {
        height: number;
        width: number;
    };
    close(): void;
}
/** The first camera; the browser asks for permission. */
export declare function openCamera(): Promise<FrameSource>;
/** A local video file; it never leaves the browser. */
export declare function openVideo(file: File): Promise<FrameSource>;
/** Images, ordered by name. */
export declare function openImages(files: File[]): Promise<FrameSource>;
