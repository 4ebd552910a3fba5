"""OpenMM's GBSAOBCForce: implicit solvent by Onufriev, Bashford and Case (OBC2), with the surface area of ACE.

    E = -K/2 (1/e_in - 1/e_out) sum over i, j of  q_i q_j / f_ij        f_ii = B_i; without cutoff
        + 4 pi gamma sum over i of  (R_i + 0.14)^2 (R_i / B_i)^6
    f   = sqrt(r^2 + B_i B_j exp(-r^2 / (4 B_i B_j)))
    1/B = 1/rho - tanh(psi - 0.8 psi^2 + 4.85 psi^3) / R,    psi = rho I,    rho = R - 0.009

    I_i = 1/2 sum over j of  1/L - 1/U + (r - s^2/r) (1/U^2 - 1/L^2) / 4 + log(L/U) / (2 r) + C   where r + s > rho_i
    s   = scale_j rho_j,   U = r + s,   L = max(rho_i, |r - s|),   C = 2 (1/rho_i - 1/L) where rho_i < s - r

    symbol                       variable              unit
    q, R, scale                  charge, radius, scale e, nm, 1
    e_in, e_out                  solute_dielectric, solvent_dielectric
    gamma                        surface_energy        kJ/mol/nm^2
    K                            diffff.units.COULOMB_CONSTANT

With a cutoff, only pairs within it count, and 1/f becomes 1/f - 1/cutoff for i != j.
Sources: doi:10.1002/prot.20033 (OBC), doi:10.1021/jp961710n (I), doi:10.1006/jmbi.1998.2172 (ACE).
"""

import numpy as np

from diffff.errors import InputError
from diffff.potentials.custom_gb import CustomGB, Formula, GBLaw, custom_gb
from diffff.potentials.custom_nonbonded import Method
from diffff.units import COULOMB_CONSTANT

SURFACE_ENERGY = 2.25936  # kJ/mol/nm^2, OpenMM's; 0.0054 kcal/mol/A^2
SOLVENT_DIELECTRIC = 78.3

_OFFSET = "; or=radius-0.009"
_OFFSETS = "; sr2=scale2*or2; or1=radius1-0.009; or2=radius2-0.009"
_BURIED = (
    "select(step(r+sr2-or1), 0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/U^2-1/L^2)+0.5*log(L/U)/r+C), 0);"
    "C=2*step(sr2-r-or1)*(1/or1-1/L); U=r+sr2; L=max(or1,abs(r-sr2))" + _OFFSETS
)
_BORN_RADIUS = "1/(1/or-tanh(psi-0.8*psi^2+4.85*psi^3)/radius); psi=I*or" + _OFFSET


def gbsa_obc(
    rows: np.ndarray | dict[str, np.ndarray],
    *,
    method: Method = "NoCutoff",
    cutoff: float = 0.0,
    solute_dielectric: float = 1.0,
    solvent_dielectric: float = SOLVENT_DIELECTRIC,
    surface_energy: float = SURFACE_ENERGY,
    name: str = "GBSAOBCForce",
) -> CustomGB:
    """The term; its parameters are the columns ``charge``, ``radius`` and ``scale``.

    Args:
        rows: shape ``(n_atoms,)``, row of each atom, or one such array for each column.
        method: OpenMM's name.
        cutoff: nm; for NoCutoff it has no meaning.
        solute_dielectric: relative permittivity inside.
        solvent_dielectric: relative permittivity outside.
        surface_energy: kJ/mol/nm^2.
        name: key of its parameters.

    Raises:
        InputError: an impossible cutoff or permittivity.
    """
    for what, value in (("solute_dielectric", solute_dielectric), ("solvent_dielectric", solvent_dielectric)):
        if not value > 0.0:
            raise InputError(f"{name}: {what} is {value}; give a positive number.")
    strength = COULOMB_CONSTANT * (1.0 / solute_dielectric - 1.0 / solvent_dielectric)
    shift = "" if method == "NoCutoff" else f"-{1.0 / cutoff!r}" if cutoff > 0.0 else ""
    energies = [
        Formula(f"{-0.5 * strength!r}*charge^2/B", "SingleParticle"),
        Formula(
            f"{-strength!r}*charge1*charge2*(1/f{shift}); f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))",
            "ParticlePairNoExclusions",
        ),
    ]
    if surface_energy != 0.0:
        area = f"{4.0 * np.pi * surface_energy!r}*(radius+0.14)^2*(radius/B)^6"
        energies.append(Formula(area, "SingleParticle"))
    law = GBLaw(
        values=(("I", Formula(_BURIED, "ParticlePairNoExclusions")), ("B", Formula(_BORN_RADIUS, "SingleParticle"))),
        energies=tuple(energies),
        parameters=("charge", "radius", "scale"),
    )
    return custom_gb(law=law, rows=rows, method=method, cutoff=cutoff, name=name)
