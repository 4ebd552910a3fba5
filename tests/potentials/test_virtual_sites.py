"""Virtual sites against OpenMM: their places, and the forces that reach the atoms behind them."""

import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.frontend.sites import site_columns, virtual_sites

WEIGHTS = ([0.1, 0.2, 0.3, 0.4], [-1, 0.5, 0.5, 0], [0.2, -0.3, 0.1, 0])
KINDS = {  # made anew each time: a System takes them over
    4: lambda: mm.TwoParticleAverageSite(0, 1, 0.3, 0.7),
    5: lambda: mm.ThreeParticleAverageSite(0, 1, 2, 0.3, 0.5, 0.2),
    6: lambda: mm.OutOfPlaneSite(0, 1, 2, 0.1, 0.2, 3.0),
    7: lambda: mm.LocalCoordinatesSite([0, 1, 2, 3], *WEIGHTS, mm.Vec3(0.1, 0.2, 0.3)),
    8: lambda: mm.LocalCoordinatesSite([3, 1], [1, 0], [-1, 1], [0.5, -0.5], mm.Vec3(0.3, 0, 0)),
}


def system_with(sites: dict) -> mm.System:
    system = mm.System()
    for _ in range(9):
        system.addParticle(1.0)
    for index, site in sites.items():
        system.setParticleMass(index, 0.0)
        system.setVirtualSite(index, site())
    return system


@pytest.mark.parametrize("indices", [[4], [5], [6], [7], [8], [4, 5, 6, 7, 8]])
def test_places_and_forces_are_those_of_openmm(indices):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, 3))
    system = system_with({i: KINDS[i] for i in indices})
    root = ET.fromstring(mm.XmlSerializer.serialize(system))
    sites, params = virtual_sites(root), {name: numbers.initial for name, numbers in site_columns(root).items()}
    assert sites is not None
    pull = mm.CustomExternalForce("a*x + b*y^2 + c*x*z")
    for name in "abc":
        pull.addPerParticleParameter(name)
    strengths = rng.normal(size=(9, 3))
    for i, row in enumerate(strengths):
        pull.addParticle(i, row)
    system.addForce(pull)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    context.computeVirtualSites()
    state = context.getState(getPositions=True, getForces=True)
    expected = np.array(state.getPositions(asNumpy=True)._value)
    np.testing.assert_allclose(sites.placed(params, jnp.asarray(x)), expected, rtol=0, atol=1e-14)

    def energy(x):
        a, b, c = strengths.T
        x = sites.placed(params, x)
        return jnp.sum(a * x[:, 0] + b * x[:, 1] ** 2 + c * x[:, 0] * x[:, 2])

    forces = np.array(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer))
    found = -jax.grad(energy)(jnp.asarray(x))
    others = [i for i in range(9) if i not in indices]
    np.testing.assert_allclose(found[np.array(others)], forces[others], rtol=1e-12, atol=1e-12)
    assert not np.any(found[np.array(indices)])


def test_a_system_without_sites_has_none():
    assert virtual_sites(ET.fromstring(mm.XmlSerializer.serialize(system_with({})))) is None


def test_what_is_not_there_is_refused():
    nested = system_with({4: KINDS[4], 5: lambda: mm.TwoParticleAverageSite(4, 1, 0.5, 0.5)})
    with pytest.raises(InputError, match="particle 5 is a virtual site defined by another"):
        virtual_sites(ET.fromstring(mm.XmlSerializer.serialize(nested)))
    other = ET.fromstring("<System><Particles><Particle mass='0'><SymmetrySite/></Particle></Particles></System>")
    with pytest.raises(InputError, match="particle 0 is a virtual site of the kind SymmetrySite"):
        virtual_sites(other)
