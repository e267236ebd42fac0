"""Stateful video segmentation, exported per frame and streamed on edge devices."""

__version__ = "0.1.0"
__all__ = ["__version__"]
