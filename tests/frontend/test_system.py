"""Systems of OpenMM as potentials: energies, forces and numbers against the Reference platform, and the way back."""

import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import pytest
from openmm import unit

import diffff
from diffff.errors import InputError
from diffff.frontend.custom_force import read_tables
from diffff.frontend.system import SystemModel, from_openmm
from diffff.neighbors import neighbor_list
from diffff.potentials.tabulated import Continuous1D, ContinuousND, Discrete

N = 10
BOX = np.diag([1.9, 2.0, 2.1])
RNG = np.random.default_rng(3)
X = np.stack(np.meshgrid(*[np.arange(3) * 0.21] * 3), -1).reshape(-1, 3)[:N] + RNG.uniform(-0.03, 0.03, (N, 3))


def system_of(*forces: mm.Force) -> mm.System:
    system = mm.System()
    for _ in range(N):
        system.addParticle(12.0)
    system.setDefaultPeriodicBoxVectors(*BOX)
    for force in forces:
        system.addForce(force)
    return system


def of_openmm(system: mm.System, x: np.ndarray = X) -> tuple[float, np.ndarray]:
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    context.computeVirtualSites()
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return state.getPotentialEnergy()._value, np.array(forces)


@jax.jit
def _evaluated(potential, params, x, box, listed):
    energy, (gradient, slope) = jax.value_and_grad(potential.energy, (0, 1))(params, x, box, listed)
    return energy, -slope, gradient


def ours(model: SystemModel, x: np.ndarray = X, params=None):
    box = None if model.box is None else jnp.asarray(model.box)
    x = model.potential.placed(model.params, jnp.asarray(x))
    listed = neighbor_list(np.asarray(x), model.box, model.potential.cutoff)
    return _evaluated(model.potential, model.params if params is None else params, x, box, listed)


def compare(system: mm.System, x: np.ndarray = X, *, skip: tuple[str, ...] = (), tolerance: float = 1e-10):
    """Energy and forces are OpenMM's; so are the derivatives of some numbers of each column, by create_system."""
    model = from_openmm(system)
    energy, forces, gradient = ours(model, x)
    expected, expected_forces = of_openmm(system, x)
    np.testing.assert_allclose(energy, expected, rtol=tolerance)
    real = np.array([i for i in range(N) if not system.isVirtualSite(i)])
    scale = np.abs(expected_forces).max()
    np.testing.assert_allclose(forces[real], expected_forces[real], rtol=0, atol=tolerance * scale)
    for name, group in model.params.items():
        for column, values in group.items():
            if column in skip:
                continue
            for i in list(np.ndindex(values.shape))[:: max(1, values.size // 3)]:
                step = 1e-4 * max(0.1, abs(float(values[i])))
                found = []
                for h in (-2, -1, 1, 2):
                    moved = {**model.params, name: {**group, column: values.at[i].add(h * step)}}
                    found.append(of_openmm(model.create_system(moved), x)[0])
                numeric = (found[0] - 8 * found[1] + 8 * found[2] - found[3]) / (12 * step)
                near = 1e-6 + 1e-11 * abs(expected) / step
                message = f"{name}/{column} {i}"
                np.testing.assert_allclose(gradient[name][column][i], numeric, rtol=1e-6, atol=near, err_msg=message)
    return model


def bonds(k: float = 2e4) -> mm.HarmonicBondForce:
    force = mm.HarmonicBondForce()
    for i in range(N - 1):
        force.addBond(i, i + 1, 0.2 + 0.01 * i, k + 100 * i)
    return force


def bonded() -> list[mm.Force]:
    angles, torsions, rb, cmap = mm.HarmonicAngleForce(), mm.PeriodicTorsionForce(), mm.RBTorsionForce(), None
    for i in range(N - 3):
        angles.addAngle(i, i + 1, i + 2, 1.9, 300.0 + i)
        torsions.addTorsion(i, i + 1, i + 2, i + 3, 1 + i % 3, 0.3 * i, 4.0 + i)
        torsions.addTorsion(i, i + 1, i + 2, i + 3, 2, 0.1 * i, 1.0 + i)
        rb.addTorsion(i, i + 1, i + 2, i + 3, *(0.5 * (c + 1) - 0.1 * i for c in range(6)))
    cmap = mm.CMAPTorsionForce()
    for size in (4, 5):
        cmap.addMap(size, list(RNG.normal(size=size**2)))
    cmap.addTorsion(0, 0, 1, 2, 3, 1, 2, 3, 4)
    cmap.addTorsion(1, 3, 4, 5, 6, 4, 5, 6, 7)
    return [bonds(), angles, torsions, rb, cmap, bonds(1e3)]


def plain(method: int, cutoff: float = 0.8) -> mm.NonbondedForce:
    force = mm.NonbondedForce()
    for i in range(N):
        force.addParticle(0.2 * (-1) ** i + 0.01 * i, 0.2 + 0.01 * i, 0.3 + 0.05 * i)
    for i in range(N - 1):
        force.addException(i, i + 1, 0.0, 1.0, 0.0)
    for i in range(N - 3):
        force.addException(i, i + 3, 0.01 * (i % 3) * (i % 2), 0.25, 0.1 * (i % 3))
    force.setNonbondedMethod(method)
    force.setCutoffDistance(cutoff)
    return force


def test_bonded_forces_of_any_number():
    model = compare(system_of(*bonded(), mm.CMMotionRemover(), mm.AndersenThermostat(300.0, 1.0)))
    assert list(model.params)[-1] == "HarmonicBondForce-2" and model.box is None
    assert "CMAPTorsionForce/map" not in model.atoms
    np.testing.assert_array_equal(model.atoms["HarmonicAngleForce/k"][2], [2, 3, 4])


def test_bonded_forces_through_the_boundary():
    system = system_of(*bonded(), *custom())
    for force in system.getForces():
        force.setUsesPeriodicBoundaryConditions(True)
    shifted = X + RNG.integers(-1, 2, (N, 3)) @ BOX
    model = from_openmm(system)
    energy = jax.jit(model.potential.energy)(model.params, shifted, model.box, None)
    np.testing.assert_allclose(energy, of_openmm(system, shifted)[0], rtol=1e-10)


def switched(force: mm.NonbondedForce) -> mm.NonbondedForce:
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.6)
    force.setReactionFieldDielectric(5.0)
    force.setUseDispersionCorrection(False)
    return force


def near_images(force: mm.NonbondedForce) -> mm.NonbondedForce:
    force.setExceptionsUsePeriodicBoundaryConditions(True)
    return force


def with_grid(force: mm.NonbondedForce) -> mm.NonbondedForce:
    force.setPMEParameters(3.1, 12, 14, 15)
    force.setLJPMEParameters(2.9, 11, 12, 13)
    return force


@pytest.mark.parametrize(
    "force",
    [
        switched(plain(mm.NonbondedForce.CutoffPeriodic)),
        with_grid(near_images(plain(mm.NonbondedForce.PME))),
        with_grid(plain(mm.NonbondedForce.LJPME)),
    ],
    ids=["periodic", "PME", "LJPME"],
)
def test_nonbonded_forces_with_all_their_options(force):
    model = compare(system_of(force), tolerance=1e-9)
    n_own = sum(i % 3 != 0 for i in range(N - 3))
    assert model.atoms["NonbondedForce/exception_epsilon"].shape == (n_own, 2)


def custom() -> list[mm.Force]:
    bond = mm.CustomBondForce("strength*a*(r-b)^4")
    bond.addPerBondParameter("a")
    bond.addPerBondParameter("b")
    bond.addGlobalParameter("strength", 1.5)
    bond.addEnergyParameterDerivative("strength")
    angle, torsion = mm.CustomAngleForce("strength*sin(theta)*k"), mm.CustomTorsionForce("k*cos(theta-s); s=1")
    angle.addPerAngleParameter("k")
    angle.addGlobalParameter("strength", 1.5)
    torsion.addPerTorsionParameter("k")
    for i in range(N - 3):
        bond.addBond(i, i + 1, [100.0 + i, 0.1])
        angle.addAngle(i, i + 1, i + 2, [3.0 + i])
        torsion.addTorsion(i, i + 1, i + 2, i + 3, [2.0 - i])
    return [bond, angle, torsion]


def pairwise(energy: str, tables: bool = False) -> mm.CustomNonbondedForce:
    force = mm.CustomNonbondedForce(energy)
    force.addPerParticleParameter("s")
    force.addPerParticleParameter("e")
    force.addGlobalParameter("lambda", 0.7)
    force.addComputedValue("root", "sqrt(e)+lambda")
    for i in range(N):
        force.addParticle([0.2 + 0.01 * (i // 4), 0.5 + 0.1 * (i // 4)])
    force.addExclusion(1, 0)
    force.addExclusion(2, 5)
    values = RNG.normal(size=6)
    if tables:
        force.addTabulatedFunction("f1", mm.Continuous1DFunction(values, 0.0, 0.9))
        force.addTabulatedFunction("d2", mm.Discrete2DFunction(2, 3, values))
    return force


LJ = "4*root1*root2*((s/r)^12-(s/r)^6); s=(s1+s2)/2"


def test_custom_forces_share_their_global_parameters():
    model = compare(system_of(*custom(), pairwise(LJ)))
    assert model.params["CustomBondForce"]["strength"].shape == ()
    assert "strength" not in model.params["CustomAngleForce"]
    angle = mm.CustomAngleForce("strength")
    angle.addGlobalParameter("strength", 1.0)
    with pytest.raises(InputError, match=r"its global parameter 'strength' is 1, but CustomBondForce says 1\.5"):
        from_openmm(system_of(*custom(), angle))


def test_tabulated_functions_are_parameters():
    compare(system_of(pairwise("f1(r)*e1*e2 + d2(step(s1-0.205)*step(s2-0.205),1)*r", tables=True)))


def test_tabulated_functions_of_all_dimensions_are_read():
    values, force = RNG.normal(size=60), mm.CustomNonbondedForce("r")
    force.addTabulatedFunction("a", mm.Continuous1DFunction([1.0, 2.0, 1.0], -0.5, 0.9, True))
    force.addTabulatedFunction("b", mm.Continuous2DFunction(3, 4, values[:12], 0.0, 1.0, 0.2, 2.0))
    force.addTabulatedFunction("c", mm.Continuous3DFunction(3, 4, 5, values, 0.0, 1.0, 0.0, 1.5, 0.3, 2.0))
    force.addTabulatedFunction("d", mm.Discrete1DFunction(values[:7]))
    force.addTabulatedFunction("e", mm.Discrete3DFunction(2, 3, 10, values))
    found = read_tables(ET.fromstring(mm.XmlSerializer.serialize(force)))
    assert {name: table for name, (table, _) in found.items()} == {
        "a": Continuous1D(size=3, low=-0.5, high=0.9, periodic=True),
        "b": ContinuousND(sizes=(3, 4), ranges=((0.0, 1.0), (0.2, 2.0))),
        "c": ContinuousND(sizes=(3, 4, 5), ranges=((0.0, 1.0), (0.0, 1.5), (0.3, 2.0))),
        "d": Discrete(sizes=(7,)),
        "e": Discrete(sizes=(2, 3, 10)),
    }
    assert [float(element.attrib["v"]) for element in found["c"][1]] == values.tolist()


@pytest.mark.parametrize("periodic", [False, True])
def test_pairs_of_a_custom_force_end_at_the_cutoff(periodic):
    force = pairwise(LJ)
    force.setNonbondedMethod(force.CutoffPeriodic if periodic else force.CutoffNonPeriodic)
    force.setCutoffDistance(0.7)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.5)
    compare(system_of(force))


def test_atoms_share_rows_for_the_correction_beyond_the_cutoff():
    force = pairwise(LJ)
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(0.7)
    force.setUseLongRangeCorrection(True)
    model = compare(system_of(force), tolerance=1e-5, skip=("s", "e", "lambda"))  # OpenMM's quadrature is not finer
    assert model.params["CustomNonbondedForce"]["e"].shape == (3,)
    np.testing.assert_array_equal(model.atoms["CustomNonbondedForce/e"][:, 0], [0, 4, 8])


def test_interaction_groups_count_each_pair_as_often_as_openmm():
    force = pairwise(LJ)
    force.addInteractionGroup([0, 1, 2, 3], [2, 3, 4, 5, 6])
    force.addInteractionGroup([0, 7], [7, 6, 2])
    compare(system_of(force))


def test_implicit_solvents():
    native, custom_gb, area = mm.GBSAOBCForce(), mm.CustomGBForce(), mm.LCPOForce()
    native.setNonbondedMethod(native.CutoffNonPeriodic)
    native.setCutoffDistance(0.7)
    native.setSurfaceAreaEnergy(3.0)
    native.setSoluteDielectric(2.0)
    custom_gb.addPerParticleParameter("q")
    custom_gb.addGlobalParameter("strength", 0.8)
    custom_gb.addTabulatedFunction("f", mm.Continuous1DFunction([0.1, 0.5, 0.4, 0.3, 0.2], 0.0, 1.0))
    custom_gb.addComputedValue("I", "q2*f(r)", custom_gb.ParticlePair)
    custom_gb.addComputedValue("B", "1/(1+I^2)", custom_gb.SingleParticle)
    custom_gb.addEnergyTerm("strength*q*B", custom_gb.SingleParticle)
    custom_gb.addEnergyTerm("q1*q2*B1*B2*exp(-r)", custom_gb.ParticlePairNoExclusions)
    custom_gb.addExclusion(0, 3)
    for i in range(N):
        native.addParticle(0.1 * (i - 4), 0.15 + 0.01 * (i % 3), 0.8)
        custom_gb.addParticle([0.1 * (i - 3)])
        area.addParticle(0.0 if i % 4 == 0 else 0.3 + 0.01 * i, 0.5, -0.2, 0.01, 0.02)
    model = compare(system_of(native, custom_gb, area), tolerance=1e-9)
    assert model.atoms["LCPOForce/p1"][:3, 0].tolist() == [1, 2, 3]


def test_sites_are_placed_and_constraints_have_no_energy():
    system = system_of(plain(mm.NonbondedForce.NoCutoff), bonds())
    system.setParticleMass(4, 0.0)
    system.setVirtualSite(4, mm.ThreeParticleAverageSite(0, 1, 2, 0.5, 0.3, 0.2))
    system.setParticleMass(7, 0.0)
    system.setVirtualSite(7, mm.OutOfPlaneSite(3, 5, 6, 0.2, 0.3, 4.0))
    system.addConstraint(5, 6, 0.1)
    compare(system)


def test_files_and_strings_are_read(tmp_path):
    system = system_of(*bonded())
    text = mm.XmlSerializer.serialize(system)
    (tmp_path / "system.xml").write_text(text)
    expected = of_openmm(system)[0]
    for source in (text, tmp_path / "system.xml", str(tmp_path / "system.xml")):
        np.testing.assert_allclose(ours(diffff.from_openmm(source))[0], expected, rtol=1e-10)


def test_a_system_comes_back_as_it_was():
    model = from_openmm(system_of(*bonded(), *custom(), pairwise(LJ, tables=True), plain(mm.NonbondedForce.PME)))
    whole = mm.XmlSerializer.serialize(model.create_system(model.params))
    assert whole == mm.XmlSerializer.serialize(from_openmm(whole).create_system(model.params))
    rounded = jax.tree.map(lambda x: np.asarray(x, np.float32), model.params)
    assert mm.XmlSerializer.serialize(model.create_system(rounded)) == whole
    changed = {**model.params, "CustomBondForce": {**model.params["CustomBondForce"], "strength": jnp.asarray(2.0)}}
    lines = zip(whole.splitlines(), mm.XmlSerializer.serialize(model.create_system(changed)).splitlines(), strict=True)
    assert sum(a != b for a, b in lines) == 2
    for bad, message in (
        ({}, "params lacks HarmonicBondForce/length"),
        ({"length": jnp.zeros(3), "k": 1}, r"has the shape \(3,\), but the System's is \(9,\)"),
        ({**model.params["HarmonicBondForce"], "k": np.full(9, np.nan)}, "HarmonicBondForce/k has nan in row 0"),
    ):
        with pytest.raises(InputError, match=message):
            model.create_system({**model.params, "HarmonicBondForce": bad})


def _offsets(force: mm.NonbondedForce) -> mm.NonbondedForce:
    force.addGlobalParameter("lambda", 1.0)
    force.addParticleParameterOffset("lambda", 0, 0.1, 0.0, 0.0)
    return force


def _reciprocal(force: mm.NonbondedForce) -> mm.NonbondedForce:
    force.setIncludeDirectSpace(False)
    return force


EMPTY = mm.XmlSerializer.serialize(system_of())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (system_of(mm.CustomExternalForce("x")), "force 0 is a CustomExternalForce, which diffff does not have"),
        (system_of(_offsets(plain(0))), "NonbondedForce has parameter offsets"),
        (system_of(_reciprocal(plain(4))), "NonbondedForce leaves out direct space"),
        (system_of(pairwise("r*q1")), "the name 'q1' has no value here"),
        (EMPTY.replace("<Forces/>", '<Forces><Force type="PythonForce"/></Forces>'), "is a PythonForce"),
        (
            '<!DOCTYPE System [<!ENTITY a "b">]>' + EMPTY.partition("?>")[2],
            "<!DOCTYPE …> and its entities are not read",
        ),
        ("<System><Forces>", "not well-formed XML"),
        ("<ForceField/>", "begins with <ForceField>"),
        ("<System>" + "<a>" * 99 + "</a>" * 99 + "</System>", "more than 32 elements inside each other"),
        ("<System/>", "OpenMM cannot read it as a System"),
        ("nowhere.xml", "nowhere.xml: cannot be read"),
        (3, "takes an openmm.System, its XML or the path of a file, not int"),
    ],
)
def test_what_is_no_system_or_not_there_is_refused(source, message):
    with pytest.raises(InputError) as refused:
        from_openmm(source)
    assert message in str(refused.value)
