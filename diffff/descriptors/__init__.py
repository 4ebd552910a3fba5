"""Smooth descriptions of the surroundings of an atom: lengths in, unit-free numbers out."""
