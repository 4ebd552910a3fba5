"""The file that i-PI is given as ``pes_path``; `diffff.md.ipi` cannot be, since i-PI would take it for itself.

It loads a file under its bare name, and ``ipi`` is the name of its own package.
"""

from diffff.md.ipi import ModelDriver

__all__ = ["ModelDriver"]
__DRIVER_NAME__ = "diffff"
__DRIVER_CLASS__ = "ModelDriver"
