"""The version; the ground floor, which everything may import."""

__version__ = "0.2.0"
