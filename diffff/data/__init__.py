"""Data sets: systems of labelled frames, in directories of .npy files or in HDF5."""
