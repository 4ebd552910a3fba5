"""Fits: which numbers of a potential move, what is compared, and what is known at the end."""
