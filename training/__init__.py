"""Clip sampling, loss and the training loop."""
