/** Everything that this library throws on purpose. */
export class StreamsegError extends Error {
  override name = "StreamsegError";
}

/** A manifest or a file of a bundle that cannot be used. */
export class BundleError extends StreamsegError {
  override name = "BundleError";
}

/** A frame, a snapshot or a given state that does not fit the bundle. */
export class MismatchError extends StreamsegError {
  override name = "MismatchError";
}
