"""Layouts of published checkpoints."""
