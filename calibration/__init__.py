"""Datasets, clip replay, quantisation and metrics."""
