"""Molecular dynamics: here, and as a plugin of other engines."""
