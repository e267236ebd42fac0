"""Pictures: resize and overlay."""
