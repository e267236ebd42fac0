"""Sessions: when state is reset, and how it is saved and restored."""
