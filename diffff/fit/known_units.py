"""Units that data come in, and which confusion of two explains a factor."""

from collections.abc import Mapping

import numpy as np

from diffff import units

_NEAR = 2.5  # largest factor between what is measured and a confusion of units

_EV, _KCAL, _HARTREE = units.KJ_PER_MOL_PER_EV, units.KJ_PER_KCAL, units.KJ_PER_MOL_PER_HARTREE
_ANGSTROM, _BOHR = units.NM_PER_ANGSTROM, units.NM_PER_BOHR
LENGTHS = {"Å": _ANGSTROM, "nm": 1.0, "bohr": _BOHR, "pm": 1e-3, "m": 1e9}  # in nm
ENERGIES = {"eV": _EV, "kJ/mol": 1.0, "kcal/mol": _KCAL, "Hartree": _HARTREE, "Rydberg": _HARTREE / 2.0}  # in kJ/mol
FORCES = {
    f"{energy}/{length}": ENERGIES[energy] / LENGTHS[length]
    for energy, length in (
        ("eV", "Å"),
        ("kJ/mol", "nm"),
        ("kJ/mol", "Å"),
        ("kcal/mol", "Å"),
        ("Hartree", "bohr"),
        ("Hartree", "Å"),
        ("Rydberg", "bohr"),
        ("eV", "nm"),
        ("eV", "bohr"),
    )
}
DIPOLES = {"e Å": _ANGSTROM, "e nm": 1.0, "e bohr": _BOHR, "Debye": units.E_NM_PER_DEBYE, "C m": units.E_NM_PER_C_M}
POTENTIALS = {"V": _EV, "kJ/mol/e": 1.0, "kcal/mol/e": _KCAL, "Hartree/e": _HARTREE, "mV": 1e-3 * _EV}  # in kJ/mol/e


def nearest(ratio: float, assumed: str, sizes: Mapping[str, float]) -> str:
    """The unit whose confusion with the assumed one comes nearest to a ratio, in words."""
    expected = {name: sizes[assumed] / size for name, size in sizes.items() if name != assumed}
    name = min(expected, key=lambda one: abs(np.log(ratio / expected[one])))
    factor = expected[name]
    if not 1.0 / _NEAR < ratio / factor < _NEAR:
        return "No unit in use explains this factor."
    shown = f"{factor:.5g}" if factor >= 1.0 else f"1/{1.0 / factor:.5g}"
    return f"The nearest known factor is {shown}, that of {name} read as {assumed}."
