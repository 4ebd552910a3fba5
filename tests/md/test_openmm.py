"""Potentials inside of OpenMM: its numbers, its barostat, its checkpoints, and what it does with virtual sites."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import openmm.app as app
import pytest
from openmm import unit

from diffff import ForceField, load
from diffff.errors import InputError
from diffff.md.openmm import add_force
from diffff.neighbors import neighbor_list
from diffff.potentials.base import energy_and_forces
from tests.md.systems import AMBER, MODEL, deep_water, hybrid, peptide

pytestmark = pytest.mark.slow  # as many seconds as programs to compile

REFERENCE = openmm.Platform.getPlatform("Reference")
FOUR_SITES = "tip4pew.xml"


def empty(system):
    """The particles and the box of a system of tests/md/systems.py, without forces."""
    made = openmm.System()
    for mass in system.masses:
        made.addParticle(mass)
    made.setDefaultPeriodicBoxVectors(*system.box)
    return made


def filled(system, **options):
    made = empty(system)
    add_force(made, system.potential, system.params, periodic=True, **options)
    return made


@cache
def water_system():
    return filled(deep_water(), skin=0.03)


@cache
def water_expected():
    return expected(deep_water())


compiled = jax.jit(energy_and_forces)


def expected(system, positions=None, box=None):
    """What `System.expected` says, compiled, since it takes a third of the time."""
    x, box = system.positions if positions is None else positions, system.box if box is None else box
    neighbors = neighbor_list(x, box, system.potential.cutoff)
    return compiled(system.potential, system.params, jnp.asarray(x), jnp.asarray(box), neighbors)


def context_of(made, positions, integrator=None, platform=REFERENCE):
    context = openmm.Context(made, integrator or openmm.VerletIntegrator(0.0005), platform)
    context.setPositions(positions)
    return context


def energy_and_forces_of(context, **options):
    state = context.getState(getEnergy=True, getForces=True, **options)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def place_of(context):
    state = context.getState(getPositions=True, getVelocities=True)
    return (
        state.getPositions(asNumpy=True)._value,
        state.getPeriodicBoxVectors(asNumpy=True)._value,
        state.getVelocities(asNumpy=True)._value,
    )


def check(found, wanted, tolerance=1e-9):
    np.testing.assert_allclose(found[0], wanted[0], rtol=tolerance)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=tolerance * np.abs(wanted[1]).max())


# ------------------------------------------------------------------ numbers
def test_energy_and_forces_are_those_of_the_potential():
    system = deep_water()
    context = context_of(water_system(), system.positions)
    check(energy_and_forces_of(context), water_expected())
    grown = system.box * np.array([1.02, 1.0, 0.99])  # a new box is seen
    context.setPeriodicBoxVectors(*grown)
    check(energy_and_forces_of(context), expected(system, box=grown))
    cpu = context_of(water_system(), system.positions, platform=openmm.Platform.getPlatform("CPU"))
    check(energy_and_forces_of(cpu), water_expected(), 1e-6)  # its forces are in single precision


def test_a_sum_of_a_deep_potential_and_xml_is_a_potential_like_others(tmp_path):
    system = hybrid(tmp_path)
    check(energy_and_forces_of(context_of(filled(system), system.positions)), expected(system))


def test_a_peptide_and_its_molecules():
    """OpenMM knows what is bonded: a barostat moves molecules, and wrapped ones are whole and have the same energy."""
    system = peptide()
    context = context_of(filled(system), system.positions)
    found = energy_and_forces_of(context)
    check(found, expected(system))
    n_alone = sum(residue.name in ("HOH", "NA", "CL") for residue in system.topology.residues())
    assert len(context.getMolecules()) == n_alone + 1
    moved = system.positions + 3.0 * system.box.sum(axis=0)
    context.setPositions(moved)
    wrapped = context.getState(getPositions=True, enforcePeriodicBox=True).getPositions(asNumpy=True)._value
    assert np.abs(wrapped - moved).min() > 1.0
    context.setPositions(wrapped)
    check(energy_and_forces_of(context), found)


def test_a_classical_potential_has_native_forces_instead():
    system, field = peptide(), ForceField(*AMBER)
    made = field.create_system(
        system.topology, field.params(), nonbonded_method="PME", nonbonded_cutoff=0.8, rigid_water=False
    )
    assert not any(isinstance(force, openmm.PythonForce) for force in made.getForces())
    check(energy_and_forces_of(context_of(made, system.positions)), expected(system))


@pytest.mark.parametrize("periodic", [True, False])
def test_a_potential_of_some_of_the_particles(periodic, tmp_path):
    """Springs between 3 of 5 particles, in another order, against arithmetic; the box is beside the point."""
    text = """<ForceField><AtomTypes><Type name="o" class="o" element="O" mass="16.0"/></AtomTypes>
     <Residues><Residue name="O3"><Atom name="A" type="o"/><Atom name="B" type="o"/><Atom name="C" type="o"/>
      <Bond atomName1="A" atomName2="B"/><Bond atomName1="B" atomName2="C"/></Residue></Residues>
     <HarmonicBondForce><Bond class1="o" class2="o" length="0.1" k="1000"/></HarmonicBondForce></ForceField>"""
    (tmp_path / "o.xml").write_text(text)
    topology = app.Topology()
    residue = topology.addResidue("O3", topology.addChain())
    a, b, c = (topology.addAtom(name, app.element.oxygen, residue) for name in "ABC")
    topology.addBond(a, b)
    topology.addBond(b, c)
    field = ForceField(tmp_path / "o.xml")
    made = openmm.System()
    for _ in range(5):
        made.addParticle(16.0)
    neutral = openmm.NonbondedForce()
    neutral.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    for _ in range(5):
        neutral.addParticle(0.0, 0.1, 0.0)
    made.addForce(neutral)  # a periodic System, whatever the potential is
    atoms = [4, 0, 2]  # A, B, C
    add_force(made, field.create_potential(topology), field.params(), atoms=atoms, force_group=7, periodic=periodic)
    x = np.random.default_rng(4).normal(scale=0.1, size=(5, 3))
    energy, forces, inside = 0.0, np.zeros((5, 3)), x[atoms]
    for i, j in ((0, 1), (1, 2)):
        dr = inside[j] - inside[i]
        r = np.linalg.norm(dr)
        energy += 500.0 * (r - 0.1) ** 2
        pull = 1000.0 * (r - 0.1) / r * dr
        forces[atoms[i]] += pull
        forces[atoms[j]] -= pull
    context = context_of(made, x)
    check(energy_and_forces_of(context, groups={7}), (energy, forces), 1e-12)
    assert energy_and_forces_of(context, groups={0})[0] == 0.0
    assert sorted(len(molecule) for molecule in context.getMolecules()) == ([1, 1, 3] if periodic else [1] * 5)


# ------------------------------------------------------------------ virtual sites
def four_site_water():
    modeller = app.Modeller(app.Topology(), [])
    modeller.addSolvent(app.ForceField(FOUR_SITES), model="tip4pew", numAdded=60)
    box = np.array(modeller.topology.getPeriodicBoxVectors()._value)
    field = ForceField(FOUR_SITES)
    options = {"nonbonded_method": "PME", "nonbonded_cutoff": 0.5}
    potential = field.create_potential(modeller.topology, **options)
    native = field.create_system(modeller.topology, field.params(), removeCMMotion=False, **options)
    bare = field.create_system(modeller.topology, field.params(), **options)
    for index in reversed(range(bare.getNumForces())):
        bare.removeForce(index)
    return field, potential, native, bare, np.array(modeller.positions._value), box


def test_sites_have_their_forces_once():
    """Four-site water is the same as with OpenMM's own forces, wherever its sites are said to be; and so it moves."""
    field, potential, native, bare, x, _ = four_site_water()
    add_force(bare, potential, field.params(), periodic=True)
    contexts = [context_of(system, x, openmm.VerletIntegrator(0.001)) for system in (bare, native)]
    for context in contexts:
        context.computeVirtualSites()
    ours, theirs = (energy_and_forces_of(context) for context in contexts)
    sites = [i for i in range(bare.getNumParticles()) if bare.isVirtualSite(i)]
    heavy = np.setdiff1d(np.arange(len(x)), sites)
    assert len(sites) == 60
    assert not ours[1][sites].any()  # OpenMM's own, which it has passed on, it still shows
    check((ours[0], ours[1][heavy]), (theirs[0], theirs[1][heavy]))
    astray = x.copy()
    astray[sites] += 0.02
    contexts[0].setPositions(astray)
    check(energy_and_forces_of(contexts[0]), ours, 1e-12)
    for context in contexts:
        context.setPositions(x)
        context.applyConstraints(1e-8)
        context.setVelocitiesToTemperature(300.0, 5)
        context.getIntegrator().setConstraintTolerance(1e-10)
        context.getIntegrator().step(10)
    (ours, _, v), (theirs, _, w) = (place_of(context) for context in contexts)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    np.testing.assert_allclose(v[heavy], w[heavy], rtol=0, atol=1e-7)


# ------------------------------------------------------------------ dynamics
def test_energy_is_conserved():
    """The error of the total energy over 100 steps falls with the square of the time step, as Verlet's must."""
    errors = []
    for step in (0.0005, 0.00025):
        context = context_of(water_system(), deep_water().positions, openmm.VerletIntegrator(step))
        context.setVelocitiesToTemperature(300.0, 1)
        total = []
        for _ in range(25):
            context.getIntegrator().step(round(0.002 / step))
            state = context.getState(getEnergy=True)
            total.append(state.getPotentialEnergy()._value + state.getKineticEnergy()._value)
        errors.append(np.std(total))
    assert 3.0 < errors[0] / errors[1] < 5.0


def test_a_barostat_changes_the_box():
    system = deep_water()
    made = openmm.XmlSerializer.clone(water_system())
    made.addForce(openmm.MonteCarloBarostat(1.0 * unit.bar, 300.0 * unit.kelvin, 1))
    made.getForce(made.getNumForces() - 1).setRandomNumberSeed(2)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = context_of(made, system.positions, integrator)
    volumes = set()
    for _ in range(30):
        integrator.step(1)
        volumes.add(context.getState().getPeriodicBoxVolume()._value)
    assert len(volumes) > 10
    x, box, _ = place_of(context)
    check(energy_and_forces_of(context), expected(system, x, box))


@pytest.mark.parametrize("kind", ["checkpoint", "state"])
def test_a_run_that_is_cut_in_two_is_the_same_run(kind):
    """Bit for bit, from the XML of the System, though its neighbour lists are made at other times."""
    system, xml = deep_water(), openmm.XmlSerializer.serialize(water_system())

    def fresh():
        if kind == "state":
            return openmm.VerletIntegrator(0.0005)
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
        integrator.setRandomNumberSeed(3)
        return integrator

    first = context_of(water_system(), system.positions, fresh())
    first.setVelocitiesToTemperature(300.0, 1)
    first.getIntegrator().step(50)
    if kind == "state":
        saved = openmm.XmlSerializer.serialize(first.getState(getPositions=True, getVelocities=True))
    else:
        saved = first.createCheckpoint()
    first.getIntegrator().step(50)
    second = context_of(openmm.XmlSerializer.deserialize(xml), system.positions, fresh())
    if kind == "state":
        second.setState(openmm.XmlSerializer.deserialize(saved))
    else:
        second.loadCheckpoint(saved)
    second.getIntegrator().step(50)
    for ours, theirs in zip(place_of(first), place_of(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ------------------------------------------------------------------ what makes no sense
def test_what_does_not_fit_a_system_is_refused():
    system, made = deep_water(), empty(deep_water())

    def add(to=made, potential=system.potential, params=system.params, **options):
        add_force(to, potential, params, **{"periodic": True} | options)

    def refused(sentence):
        return pytest.raises(InputError, match=sentence)

    with refused("the potential is for 96 atoms, but atoms has 95"):
        add(atoms=range(95))
    with refused("atoms has 96, but the System has 96 particles, numbered from 0"):
        add(atoms=[*range(1, 97)])
    with refused("atoms has -1"):
        add(atoms=[-1, *range(95)])
    with refused("atoms has 3 twice"):
        add(atoms=[3, *range(95)])
    with refused("list of indices of particles"):
        add(atoms=[0.5] * 96)
    with refused("no force that tells whether it is periodic"):
        add(periodic=None)
    with refused("give True, False or None"):
        add(periodic="no")
    with refused("force_group is 32; give a whole number from 0 to 31"):
        add(force_group=32)
    with refused('dtype is .float16.; give "float32" or "float64"'):
        add(dtype="float16")
    with refused("system is of the type Topology"):
        add(to=system.topology)
    made.addParticle(1.0)
    with refused("the potential is for 96 atoms, but the System has 97 particles"):
        add()
    with refused("not periodic: NonbondedForce: PME needs a periodic box"):
        add(to=empty(peptide()), potential=peptide().potential, params=peptide().params, periodic=False)
    with refused("HarmonicBondForce/k has the shape .3,.; it must have the shape"):
        params = peptide().params
        params = {**params, "HarmonicBondForce": {**params["HarmonicBondForce"], "k": jnp.ones(3)}}
        add(to=empty(peptide()), potential=peptide().potential, params=params)
    field, potential, native, _, _, _ = four_site_water()
    massive = openmm.System()
    for _ in range(native.getNumParticles()):
        massive.addParticle(1.0)
    with refused("particle 3 is a virtual site in the potential, but not in the System"):
        add(to=massive, potential=potential, params=field.params())
    assert made.getNumForces() == 0


SENTENCE = r"^diffff: .*not finite.* closest atoms are 4 and 9 \(from 0\)"


def test_atoms_on_top_of_each_other_stop_the_run_with_a_sentence():
    x = deep_water().positions
    on_top = x.copy()
    on_top[4] = on_top[9] + 0.001
    context = context_of(water_system(), x)
    context.getIntegrator().step(3)
    context.setPositions(on_top)
    with pytest.raises(openmm.OpenMMException, match=SENTENCE):
        context.getIntegrator().step(1)
    context.setPositions(x)  # and it goes on
    context.getIntegrator().step(1)
    context.setPositions(x)
    context.getState(getEnergy=True)
    context.setPositions(on_top)  # as a minimiser or a barostat may try
    assert energy_and_forces_of(context)[0] == np.inf
    with pytest.raises(openmm.OpenMMException, match=SENTENCE):
        context.getIntegrator().step(2)


def test_openmm_minimises():
    """Its minimiser begins with a step so long that atoms come to lie on top of each other."""
    for platform in ("Reference", "CPU"):
        context = context_of(water_system(), deep_water().positions, platform=openmm.Platform.getPlatform(platform))
        before = energy_and_forces_of(context)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=30)
        after = energy_and_forces_of(context)
        assert after[0] < before[0]
        assert np.linalg.norm(after[1]) < 0.2 * np.linalg.norm(before[1])


# ------------------------------------------------------------------ OpenMM-ML
@pytest.fixture
def ml_potential():
    openmmml = pytest.importorskip("openmmml")
    from diffff.md.openmmml import DiffffFactory

    openmmml.MLPotential.registerImplFactory("diffff", DiffffFactory())
    return openmmml.MLPotential


def test_openmmml_finds_all_it_calls(ml_potential):
    from openmmml.mlpotential import MLPotentialImpl

    from diffff.md.openmmml import DiffffPotential

    needed = {name for name in vars(MLPotentialImpl) if not name.startswith("_")}
    assert needed - {"createMixedSystem"} <= set(vars(DiffffPotential))  # that one is for embeddings of our own


def test_openmmml_makes_systems(ml_potential):
    system = deep_water()
    made = ml_potential("diffff", model=MODEL).createSystem(system.topology)
    check(energy_and_forces_of(context_of(made, system.positions)), water_expected())


def test_openmmml_makes_mixed_systems(ml_potential):
    """Two molecules by the Deep Potential in water by XML, and all that is between the two models."""
    system, model = deep_water(), load(MODEL)
    field = app.ForceField("amber14/tip3pfb.xml")
    classical = field.createSystem(system.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.45 * unit.nanometer)
    atoms = [9, 10, 11, 3, 4, 5]
    potential = ml_potential("diffff", model=model)
    made = potential.createMixedSystem(system.topology, classical, atoms, forceGroup=2)
    context = context_of(made, system.positions)
    small = system._replace(potential=model.potential(np.array([0, 1, 1] * 2)), positions=system.positions[atoms])
    energy, inside = expected(small)
    forces = np.zeros((96, 3))
    forces[atoms] = inside
    check(energy_and_forces_of(context, groups={2}), (energy, forces))
    whole = energy_and_forces_of(context)[0]
    between = potential.createMixedSystem(system.topology, classical, atoms, interpolate=True)
    context, energies = context_of(between, system.positions), []
    for weight in (0.0, 0.5, 1.0):
        context.setParameter("lambda_interpolate", weight)
        energies.append(energy_and_forces_of(context)[0])
    np.testing.assert_allclose(energies[1:], [(energies[0] + whole) / 2, whole], rtol=1e-12)


def test_openmmml_refuses_what_a_model_does_not_know(ml_potential, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.dp: no such file"):
        ml_potential("diffff", model=tmp_path / "nowhere.dp")
    with pytest.raises(InputError, match="needs a model"):
        ml_potential("diffff")
    with pytest.raises(InputError, match="argument 'modelPath', which diffff does not know"):
        ml_potential("diffff", modelPath=MODEL)
    with pytest.raises(InputError, match="model is of the type int; give the path of one"):
        ml_potential("diffff", model=3)
    with pytest.raises(InputError, match="fparam is given, but this model has none"):
        ml_potential("diffff", model=MODEL, fparam=[0.1]).createSystem(deep_water().topology)
    potential = ml_potential("diffff", model=MODEL)
    with pytest.raises(InputError, match=r"\(CH3 of residue ACE 1\) is 'C', but the model has the types O, H only"):
        potential.createSystem(peptide().topology)
    classical = app.ForceField("amber14/tip3pfb.xml").createSystem(deep_water().topology)
    with pytest.raises(InputError, match="names an atom twice"):
        potential.createMixedSystem(deep_water().topology, classical, [0, 1, 2, 0])
    with pytest.raises(InputError, match="argument 'precision'"):
        potential.createSystem(deep_water().topology, precision="single")
