"""A driver for i-PI (doi:10.1063/5.0215869): energies, forces and virials of all beads, in atomic units.

i-PI takes the file that ``python -m diffff.md.ipi`` prints, in its own process or behind a socket; see docs/engines.md.
"""

import copy
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffff import units
from diffff.errors import InputError
from diffff.md.calculator import Calculator
from diffff.md.elements import types_of
from diffff.model import load
from diffff.potentials.base import Params, Potential

PES_FILE = Path(__file__).with_name("ipi_pes.py")

Answer = tuple[float, np.ndarray, np.ndarray, str]


class PotentialDriver:
    """A potential as a driver: derive a class that makes it, in a file of your own, and give i-PI that file.

    The neighbour list of each bead of a batch is kept; the beads are computed one after the other.
    """

    def __init__(
        self,
        potential: Potential,
        params: Params,
        *,
        periodic: bool = True,
        skin: float = 0.1,
        dtype: str = "float64",
    ) -> None:
        """Take the potential.

        Args:
            potential: of all atoms, in i-PI's order; i-PI must not wrap positions (``pbc="false"``, its default) where
                molecules have bonded terms.
            params: its parameter tree.
            periodic: whether i-PI's cell is one; False: atoms in a vacuum, whatever the cell.
            skin: nm, how much farther than the cutoff the neighbour list reaches.
            dtype: "float64" or "float32", in which energies are computed.

        Raises:
            InputError: see `Calculator`.
        """
        self._periodic = periodic
        self._beads = [Calculator(potential, params, skin=skin, dtype=dtype)]

    def __call__(self, cell: Any, pos: Any) -> Any:
        """What i-PI calls: one structure, or lists of them.

        Args:
            cell: shape ``(3, 3)``, bohr; lattice vectors in the columns.
            pos: shape ``(n_atoms, 3)``, bohr.

        Returns:
            Energy (hartree), forces (hartree/bohr), virial ``-dE/d(strain)`` (hartree) and an empty string; of lists,
            a list of these.

        Raises:
            InputError: another number of atoms, molecules cut by the boundary, or the energy is not finite.
        """
        if not isinstance(pos, list):
            return self.compute_structure(cell, pos)
        answers = []
        for bead, (h, x) in enumerate(zip(cell, pos, strict=True)):
            if bead == len(self._beads):
                self._beads.append(copy.copy(self._beads[0]))  # shares the compiled programs, not the list
            answers.append(self._compute(self._beads[bead], h, x))
        return answers

    compute = __call__

    def compute_structure(self, cell: np.ndarray, pos: np.ndarray) -> Answer:
        """One structure; see `__call__`."""
        return self._compute(self._beads[0], cell, pos)

    def _compute(self, calculator: Calculator, cell: np.ndarray, pos: np.ndarray) -> Answer:
        box = np.asarray(cell, float).T * units.NM_PER_BOHR if self._periodic else None
        x = np.asarray(pos, float) * units.NM_PER_BOHR
        energy, forces, virial = calculator(x, box)
        return (
            energy / units.KJ_PER_MOL_PER_HARTREE,
            forces * (units.NM_PER_BOHR / units.KJ_PER_MOL_PER_HARTREE),
            virial / units.KJ_PER_MOL_PER_HARTREE,
            "",
        )


class ModelDriver(PotentialDriver):
    """A Deep Potential as a driver; its parameters are those of ``<parameters>`` and of ``i-pi-driver-py -o``."""

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        template: str | PathLike[str] | None = None,
        *positional: Any,
        periodic: Any = True,
        skin: Any = 0.1,
        dtype: str = "float64",
        fparam: Any = None,
        verbosity: Any = None,
        **unknown: Any,
    ) -> None:
        """Read the model and the elements of the atoms. This puts JAX into 64-bit mode for dtype "float64".

        Args:
            model: path of a .dp or .yaml file.
            template: path of an xyz file with the atoms in i-PI's order, such as the start of the simulation.
            positional: refused.
            periodic: whether i-PI's cell is one.
            skin: nm.
            dtype: "float64" or "float32".
            fparam: frame parameters of the model, numbers with blanks between them.
            verbosity: i-PI's, of no effect.
            unknown: refused.

        Raises:
            InputError: a file is missing or not understood, an element is not the model's, a parameter is unknown.
        """
        strange = [*map(str, positional), *unknown]
        if strange or model is None or template is None:
            extra = f"unknown: {', '.join(strange)}. " if strange else ""
            raise InputError(
                f"parameters of the diffff driver: {extra}Give model=FILE, template=FILE, and if you like periodic, "
                "skin, dtype, fparam."
            )
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        read, symbols = load(str(model)), read_symbols(Path(str(template)))
        try:
            potential = read.potential(types_of(read, symbols), fparam=_numbers(fparam, "fparam"))
        except InputError as error:
            raise InputError(f"{model}, {template}: {error}") from None
        super().__init__(
            potential, read.params, periodic=_truth(periodic, "periodic"), skin=_number(skin, "skin"), dtype=dtype
        )


def read_symbols(path: Path) -> list[str]:
    """Symbols of the elements in the first frame of an xyz file.

    Raises:
        InputError: it cannot be read, or is no xyz file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        n_atoms = int(lines[0])
        symbols = [line.split()[0] for line in lines[2 : 2 + n_atoms]]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, IndexError):
        raise InputError(f"{path}: not an xyz file: the number of atoms, a comment, a line for each atom.") from None
    if len(symbols) != n_atoms:
        raise InputError(f"{path}: {n_atoms} atoms are announced, but there are {len(symbols)}.")
    return symbols


def _truth(value: Any, name: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).strip().lower() not in words:
        raise InputError(f"{name} is {value!r}; give true or false.")
    return words[str(value).strip().lower()]


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; give a number.") from None


def _numbers(values: Any, name: str) -> list[float] | None:
    if values is None:
        return None
    return [_number(x, name) for x in (values.split() if isinstance(values, str) else np.ravel(values))]


if __name__ == "__main__":
    print(PES_FILE)
