"""What engines have in common: which potential serves which atoms, and in which box they are."""

from collections.abc import Sequence
from os import PathLike

import numpy as np

from diffff import units
from diffff.errors import InputError
from diffff.md.calculator import Calculator
from diffff.model import Model, load
from diffff.potentials.base import Params, Potential
from diffff.potentials.bonded import HarmonicAngle, HarmonicBond
from diffff.space import face_distances


def types_of(model: Model, symbols: Sequence[str]) -> np.ndarray:
    """Types of atoms from the symbols of their elements, shape ``(n_atoms,)``.

    Raises:
        InputError: a symbol is none of the model's types.
    """
    place = {name: index for index, name in enumerate(model.type_map)}
    for atom, symbol in enumerate(symbols):
        if symbol not in place:
            raise InputError(
                f"atom {atom} (from 0) is {symbol!r}, but the model has the types {', '.join(model.type_map)} only."
            )
    return np.array([place[symbol] for symbol in symbols], int)


def potential_of(model: Model, symbols: Sequence[str]) -> Potential:
    """The potential of a model for atoms of these elements.

    Raises:
        InputError: a symbol is none of the model's types, or the model wants frame or atomic parameters.
    """
    fitting = model.spec.fitting_net
    for name, number in (("fparam", fitting.numb_fparam), ("aparam", fitting.numb_aparam)):
        if number:
            raise InputError(
                f"the model has {name} (fitting_net.numb_{name} is {number}), which no engine can give it."
            )
    return model.potential(types_of(model, symbols))


def box_of(vectors: np.ndarray, periodic: Sequence[bool]) -> np.ndarray | None:
    """Lattice vectors, or None for atoms that are not periodic.

    Args:
        vectors: shape ``(3, 3)``, one in each row, any unit.
        periodic: along each of them.

    Raises:
        InputError: periodic along one or two of them only.
    """
    if not any(periodic):
        return None
    if not all(periodic):
        kinds = ", ".join("yes" if one else "no" for one in periodic)
        raise InputError(
            f"periodic along a, b, c: {kinds}; diffff needs all or none. "
            "For a surface or a wire, make all periodic and the cell long enough for an empty gap."
        )
    return np.asarray(vectors, float)


def bonded_pairs(potential: Potential) -> np.ndarray:
    """Pairs of atoms whose springs know no images, shape ``(n_pairs, 2)``."""
    pairs = [np.zeros((0, 2), int)]
    for term in potential.terms:
        if isinstance(term, HarmonicBond | HarmonicAngle) and not term.periodic:
            atoms = np.asarray(term.atoms)
            pairs += [atoms[:, k : k + 2] for k in range(atoms.shape[1] - 1)]
    return np.concatenate(pairs)


def require_whole(pairs: np.ndarray, positions: np.ndarray, box: np.ndarray | None) -> None:
    """Refuse molecules that a boundary has cut: their springs would be as long as the box.

    Args:
        pairs: from `bonded_pairs`.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.

    Raises:
        InputError: a bond is longer than half the box.
    """
    if box is None or not len(pairs) or pairs.max() >= len(positions):
        return
    r = np.linalg.norm(positions[pairs[:, 1]] - positions[pairs[:, 0]], axis=1)
    worst = int(np.argmax(r))
    if r[worst] > 0.5 * face_distances(np.asarray(box, float)).min():
        (i, j), apart = pairs[worst], r[worst] * units.ANGSTROM_PER_NM
        raise InputError(
            f"atoms {i} and {j} (from 0) are bonded, but {apart:.1f} Å apart, more than half the box: "
            "wrapped atoms have cut molecules; give whole ones."
        )


class Binding:
    """What an engine computes with: a model, or a potential with its parameters."""

    def __init__(
        self,
        model: Model | str | PathLike[str] | None,
        potential: Potential | None,
        params: Params | None,
        *,
        symbols: Sequence[str] | None,
        skin: float,
        dtype: str,
    ) -> None:
        """Take one of the two.

        Args:
            model: a Deep Potential or the path of one.
            potential: of certain atoms, or None.
            params: its parameter tree.
            symbols: elements of these atoms, with which those of the engine are compared; None: not known.
            skin: nm, as `Calculator` takes it.
            dtype: as `Calculator` takes it.

        Raises:
            InputError: none or both, a potential without parameters, or the file is no model.
        """
        if (model is None) == (potential is None):
            raise InputError("give either model, or potential with params.")
        if potential is None and (params is not None or symbols is not None):
            raise InputError("params and symbols belong to a potential; a model has both.")
        if potential is not None and params is None:
            raise InputError("a potential needs params, its parameter tree.")
        self.model = load(model) if isinstance(model, str | PathLike) else model
        self._symbols = None if symbols is None else list(symbols)
        self._skin, self._dtype = skin, dtype
        self._calculator: Calculator | None = None
        self._pairs = bonded_pairs(potential) if potential else np.zeros((0, 2), int)
        self._n_atoms = None if potential is None else potential.n_atoms
        if symbols is not None and self._n_atoms not in (None, len(symbols)):
            raise InputError(f"the potential is for {self._n_atoms} atoms, but symbols has {len(symbols)}.")
        if potential is not None and params is not None:
            self._calculator = Calculator(potential, params, skin=skin, dtype=dtype)

    def calculator(self, symbols: Sequence[str], positions: np.ndarray, box: np.ndarray | None) -> Calculator:
        """The calculator for these atoms: of a model a new one whenever the elements have changed.

        Args:
            symbols: of the elements, shape ``(n_atoms,)``.
            positions: shape ``(n_atoms, 3)``, nm.
            box: shape ``(3, 3)`` or None, nm.

        Raises:
            InputError: the model lacks an element, a potential was made for other atoms, or molecules are cut.
        """
        symbols = list(symbols)
        if self.model is None:
            self._compare(symbols)
            require_whole(self._pairs, positions, box)
        elif symbols != self._symbols:
            potential = potential_of(self.model, symbols)
            self._calculator = Calculator(potential, self.model.params, skin=self._skin, dtype=self._dtype)
        self._symbols = symbols
        assert self._calculator is not None
        return self._calculator

    def _compare(self, symbols: list[str]) -> None:
        known = symbols if self._symbols is None else self._symbols
        n_atoms = len(known) if self._n_atoms is None else self._n_atoms
        if n_atoms != len(symbols):
            raise InputError(f"the potential is for {n_atoms} atoms, but there are {len(symbols)}.")
        for atom, (old, new) in enumerate(zip(known, symbols, strict=True)):
            if old != new:
                raise InputError(
                    f"atom {atom} (from 0) is {new!r}, but in the potential it is {old!r}: give the atoms in the order "
                    "in which the potential was made, or make a new potential."
                )
