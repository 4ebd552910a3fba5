"""What engines have in common: which potential serves which atoms."""

from collections.abc import Sequence
from os import PathLike

import numpy as np

from diffff.errors import InputError
from diffff.md.calculator import Calculator
from diffff.md.positions import check_skin
from diffff.md.precision import check_dtype
from diffff.model import Model, load
from diffff.potentials.base import Params, Potential


def types_of(model: Model, symbols: Sequence[str | None], atoms: Sequence[str] | None = None) -> np.ndarray:
    """Types of atoms from the symbols of their elements, shape ``(n_atoms,)``.

    Args:
        model: whose types they are.
        symbols: of the elements; None for what is no element, such as a virtual site.
        atoms: what messages call each atom; None: its number.

    Raises:
        InputError: a symbol is none of the model's types.
    """
    place = {name: index for index, name in enumerate(model.type_map)}
    for number, symbol in enumerate(symbols):
        if symbol not in place:
            atom = f"atom {number} (from 0)" if atoms is None else atoms[number]
            found = "has no element" if symbol is None else f"is {symbol!r}"
            raise InputError(
                f"{atom} {found}, but the model has the types {', '.join(model.type_map)} only. "
                "Take a model that has it, or leave the atom out."
            )
    return np.array([place[symbol] for symbol in symbols if symbol is not None], int)


def model_of(model: Model | str | PathLike[str] | None) -> Model | None:
    """A model, read if it is the path of one.

    Raises:
        InputError: it is neither of them, or the file is no model.
    """
    if model is None or isinstance(model, Model):
        return model
    if not isinstance(model, str | PathLike):
        raise InputError(f"model is of the type {type(model).__name__}; give the path of one, or diffff.load(path).")
    return load(model)


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
        fparam: Sequence[float] | None = None,
        aparam: np.ndarray | None = None,
    ) -> None:
        """Take one of the two.

        Args:
            model: a Deep Potential or the path of one.
            potential: of certain atoms, or None.
            params: its parameter tree.
            symbols: elements of these atoms, with which those of the engine are compared; None: not known.
            skin: nm, as `Calculator` takes it.
            dtype: as `Calculator` takes it.
            fparam: of a model, as `Model.potential` takes it.
            aparam: of a model, likewise; then it serves the first atoms only.

        Raises:
            InputError: none or both, a potential without parameters, the file is no model, or an option makes no sense.
        """
        check_dtype(dtype)
        check_skin(skin)
        if (model is None) == (potential is None):
            raise InputError("give either model, or potential with params.")
        if potential is None and (params is not None or symbols is not None):
            raise InputError("params and symbols belong to a potential; a model has both.")
        if potential is not None and params is None:
            raise InputError("a potential needs params, its parameter tree.")
        if potential is not None and (fparam is not None or aparam is not None):
            raise InputError("fparam and aparam belong to a model; a potential has its own, from model.potential(…).")
        self.model = model_of(model)
        self._fparam, self._aparam = fparam, aparam
        self._symbols = None if symbols is None else list(symbols)
        self._skin, self._dtype = skin, dtype
        self._calculator: Calculator | None = None
        if potential is not None and params is not None:
            self._calculator = Calculator(potential, params, skin=skin, dtype=dtype)
        self._n_atoms = None if potential is None else potential.n_atoms
        if symbols is not None and self._n_atoms not in (None, len(symbols)):
            raise InputError(f"the potential is for {self._n_atoms} atoms, but symbols has {len(symbols)}.")

    def calculator(self, symbols: Sequence[str]) -> Calculator:
        """The calculator for these atoms: of a model a new one whenever the elements have changed.

        Args:
            symbols: of the elements, shape ``(n_atoms,)``.

        Raises:
            InputError: the model lacks an element, or a potential was made for other atoms.
        """
        symbols = list(symbols)
        if self.model is None or (self._aparam is not None and self._symbols is not None):
            self._compare(symbols)
        elif symbols != self._symbols:
            types = types_of(self.model, symbols)
            potential = self.model.potential(types, fparam=self._fparam, aparam=self._aparam)
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
