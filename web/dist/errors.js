/** Base class of the errors that this library throws. */
export class StreamsegError extends Error {
    name = "StreamsegError";
}
/** An invalid manifest, or an invalid file of a bundle. */
export class BundleError extends StreamsegError {
    name = "BundleError";
}
/** A frame, a snapshot or a given state that does not match the bundle. */
export class MismatchError extends StreamsegError {
    name = "MismatchError";
}
