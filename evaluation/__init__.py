"""Datasets, metrics, scores and drift."""
