"""Networks behind the step contract: one module per encoder, decoder and system."""
