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
/** A video file from the disk; it never leaves the browser. */
export declare function openVideo(file: File): Promise<FrameSource>;
/** Images in the order of their names. */
export declare function openImages(files: File[]): Promise<FrameSource>;
