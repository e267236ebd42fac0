"""Files that hold weights, read without running anything that they contain."""
