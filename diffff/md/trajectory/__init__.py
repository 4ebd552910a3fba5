"""Trajectories: frames of a run in a DCD, extended XYZ or HDF5 file, continued exactly after a run was killed."""

from diffff.md.trajectory.frame import Frame
from diffff.md.trajectory.open import Trajectory, open_trajectory

__all__ = ["Frame", "Trajectory", "open_trajectory"]
