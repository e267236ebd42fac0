/** Base class of the errors that this library throws. */
export declare class StreamsegError extends Error {
    name: string;
}
/** An invalid manifest, or an invalid file of a bundle. */
export declare class BundleError extends StreamsegError {
    name: string;
}
/** A frame, a snapshot or a given state that does not match the bundle. */
export declare class MismatchError extends StreamsegError {
    name: string;
}
