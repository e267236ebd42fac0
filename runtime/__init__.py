"""Everything that runs a bundle. Imports neither torch nor onnx."""
