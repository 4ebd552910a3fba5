"""A small fit for the tests of records and reports: water by its own force field with noise, and a row nobody uses."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import openmm.app as app

from diffff import ForceField
from diffff.fit.free import Free, free_of
from diffff.fit.problem import FitSystem, Sigmas, all_residuals, predictions
from diffff.fit.record import write_record
from diffff.fit.rules import Numbers, Prior, Rule, Treatment, moving
from diffff.fit.solve import Fit, solve
from tests.md.systems import SPRING

XML = SPRING.replace(
    "</HarmonicBondForce>",
    """ <Bond class1="H" class2="H" length="0.15" k="100"/></HarmonicBondForce>
 <HarmonicAngleForce><Angle class1="H" class2="O" class3="H" angle="1.82" k="620"/></HarmonicAngleForce>""",
).replace('k="5000"', 'k="450000"')
SIGMAS = Sigmas(energy=0.5, force=20.0)
X = np.array([[0.0, 0, 0], [0.097, 0, 0], [-0.024, 0.094, 0]])


class Small(NamedTuple):
    """All parts of a fit."""

    field: ForceField
    found: list[Numbers]
    free: Free
    fit: Fit
    train: list[FitSystem]
    valid: list[FitSystem]
    sigmas: Sigmas

    def written(
        self, folder: Path, origin: dict[str, Any], left_out: list[dict[str, Any]], curve: Any = None
    ) -> dict[str, Any]:
        """Write the record of the fit; what is in it."""
        return write_record(
            folder,
            self.fit,
            self.found,
            self.free,
            train=self.train,
            valid=self.valid,
            sigmas=self.sigmas,
            provenance=origin,
            left_out=left_out,
            units=self.field.units,
            curve=curve,
        )


def small_fit(folder: Path, names=("cold", "warm"), n_frames=20) -> Small:
    """The fit; the force constants begin a tenth off."""
    (folder / "water.xml").write_text(XML)
    field = ForceField(folder / "water.xml")
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    o, *hydrogens = (topology.addAtom(n, app.Element.getBySymbol(n[0]), residue) for n in ("O", "H1", "H2"))
    for h in hydrogens:
        topology.addBond(o, h)
    potential, params = field.create_potential(topology, rigid_water=False), field.params()
    systems = []
    for seed, name in enumerate((*names, "unseen")):
        rng = np.random.default_rng(seed)
        x = jnp.asarray(X + rng.normal(scale=0.004 * (1 + seed), size=(n_frames, 3, 3)))
        empty = FitSystem(potential=potential, positions=x, energy=jnp.zeros(n_frames), forces=jnp.zeros_like(x))
        exact = predictions(empty, params, SIGMAS)
        energy = exact["energy"] + 0.5 * rng.normal(size=n_frames) + 100.0
        forces = exact["force"] + 20.0 * rng.normal(size=x.shape)
        systems.append(replace(empty, energy=energy, forces=forces, name=name))
    rules = [
        Rule(select="HarmonicBondForce/k", treatment=Treatment(bounds=(0.0, None))),
        Rule(select="HarmonicAngleForce/k", treatment=Treatment(prior=Prior(sigma=200.0))),
        Rule(select="HarmonicBondForce/length", where={"atoms": ["O", "H"]}),
        Rule(select="*", treatment=Treatment(train=False)),
    ]
    bonds = params["HarmonicBondForce"]
    start = {**params, "HarmonicBondForce": {**bonds, "k": bonds["k"] * 1.1}}
    found = moving(start, field.rows, rules)
    free = free_of(start, found)
    train, valid = systems[:-1], systems[-1:]
    fit = solve(lambda tree: all_residuals(train, tree, SIGMAS), free, found)
    return Small(field, found, free, fit, train, valid, SIGMAS)
