"""The loop: sources are read, frames are segmented, outputs are written."""
