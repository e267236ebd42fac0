/** Everything that this library throws on purpose. */
export declare class StreamsegError extends Error {
    name: string;
}
/** A manifest or a file of a bundle that cannot be used. */
export declare class BundleError extends StreamsegError {
    name: string;
}
/** A frame, a snapshot or a given state that does not fit the bundle. */
export declare class MismatchError extends StreamsegError {
    name: string;
}
