"""A differentiable engine for molecular force fields: classical terms and Deep Potentials in one parameter tree."""

from os import PathLike
from typing import TYPE_CHECKING, Any

from diffff.errors import InputError

if TYPE_CHECKING:
    from diffff.frontend.forcefield import ForceField
    from diffff.frontend.system import from_openmm
    from diffff.model import Model

__version__ = "0.1.0.dev0"
__all__ = ["ForceField", "InputError", "__version__", "from_openmm", "load"]


def load(path: str | PathLike[str]) -> "Model":
    """Read a model from a file of DeePMD-kit's formats.

    Numbers are in double precision once `jax.config.update("jax_enable_x64", True)` has been called.

    Args:
        path: A .dp, .yaml or .yml file.

    Returns:
        The model: `model.eval(coords, box, types)` works in Å and eV as DeePMD-kit's `DeepPot` does,
        `model.potential(types)` in nm and kJ/mol as everything else here.

    Raises:
        InputError: The file is missing or not understood, or the installed JAX computes wrong numbers.
    """
    from diffff.jax_version import require_sound_jax

    require_sound_jax()
    from diffff.model import load

    return load(path)


def __getattr__(name: str) -> Any:
    """The frontend is imported when it is first asked for: `import diffff` stays quick."""
    if name not in ("ForceField", "from_openmm"):
        raise AttributeError(f"module 'diffff' has no attribute {name!r}")
    from diffff.jax_version import require_sound_jax

    require_sound_jax()
    from diffff.frontend.forcefield import ForceField
    from diffff.frontend.system import from_openmm

    return ForceField if name == "ForceField" else from_openmm
