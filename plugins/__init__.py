"""Native operators: the windowed causal convolution and the windowed selective scan."""
