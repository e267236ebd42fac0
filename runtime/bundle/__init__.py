"""Bundles: the manifest, the state table and the files of an exported network."""
