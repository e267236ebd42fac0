/** Everything that this library throws on purpose. */
export class StreamsegError extends Error {
    name = "StreamsegError";
}
/** A manifest or a file of a bundle that cannot be used. */
export class BundleError extends StreamsegError {
    name = "BundleError";
}
/** A frame, a snapshot or a given state that does not fit the bundle. */
export class MismatchError extends StreamsegError {
    name = "MismatchError";
}
