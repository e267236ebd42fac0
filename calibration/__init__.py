"""INT8: clip replay, observation of ranges and quantisation."""
