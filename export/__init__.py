"""Models, checkpoint import and export to a bundle."""
