"""Implicit solvent against OpenMM: the five scripts, the tag, surface areas, salt, cutoffs, and gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.frontend.files import read_files
from diffff.frontend.forcefield import ForceField
from diffff.frontend.group import Options
from diffff.frontend.implicit import ImplicitSolvent, SurfaceArea, implicit_solvent
from diffff.frontend.nonbonded import NonbondedRows
from diffff.frontend.trace import Tracer
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential, Shared

MOLECULES = Path(__file__).parents[1] / "references" / "molecules"
PROTEIN, NUCLEIC = "amber14/protein.ff14SB.xml", "amber14/DNA.OL15.xml"
SALT = {"implicitSolventKappa": 0.7, "soluteDielectric": 1.5, "solventDielectric": 70.0}
FORCES = (mm.CustomGBForce, mm.GBSAOBCForce, mm.LCPOForce)


def molecule(name: str) -> tuple[app.Topology, np.ndarray]:
    pdb = app.PDBFile(str(MOLECULES / f"{name}.pdb"))
    return pdb.topology, np.array(pdb.positions.value_in_unit(unit.nanometer))


def solvent(files, topology, **options) -> tuple[Potential, dict, list]:
    """The solvent alone, its parameters, and its groups; options as in OpenMM's createSystem."""
    documents = read_files(files)
    charges, groups = NonbondedRows.read(documents), implicit_solvent(documents)
    trace = Tracer(documents, charges.marks()).trace(topology, **options)
    chosen = Options("NoCutoff", 1.0, None, 5e-4, None, False, None)
    params = {group.name: jax.tree.map(jnp.asarray, group.parameters.initial()) for group in [charges, *groups]}
    terms = tuple(term for group in groups for term in group.terms(trace, chosen))
    return Potential(terms=terms, shared=(Shared("ImplicitSolvent", "charge", "NonbondedForce"),)), params, groups


@jax.jit
def derivatives(potential, params, x, box, neighbors):
    """Energy, forces and parameter gradient."""
    energy, (by_params, by_x) = jax.value_and_grad(potential.energy, (0, 1))(params, x, box, neighbors)
    return energy, -by_x, by_params


def of_openmm(system: mm.System, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces of the solvent alone."""
    for force in system.getForces():
        force.setForceGroup(1 if isinstance(force, FORCES) else 0)
    platform = mm.Platform.getPlatformByName("Reference")
    context = mm.Context(system, mm.VerletIntegrator(0.001), platform)
    context.setPositions(x)
    state = context.getState(energy=True, forces=True, groups={1})
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


def of_whole(system: mm.System, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces of all of a System."""
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


CASES = [
    ("hct", PROTEIN, "dipeptide", SALT),
    ("obc1", PROTEIN, "dipeptide", {"sasaMethod": None}),
    ("obc2", PROTEIN, "dipeptide", {"sasaMethod": "LCPO", "nonbondedMethod": app.CutoffNonPeriodic, **SALT}),
    ("gbn", PROTEIN, "dipeptide", {"nonbondedMethod": app.CutoffNonPeriodic}),
    ("gbn2", NUCLEIC, "dna", SALT),
]


@pytest.mark.parametrize("model, base, name, options", CASES, ids=[case[0] for case in CASES])
def test_models_are_those_of_openmm(model, base, name, options):
    """Energy and forces, and the derivative of each column by differences of OpenMM's System with changed numbers."""
    topology, x = molecule(name)
    files = (base, f"implicit/{model}.xml")
    options = {"nonbondedCutoff": 0.8 * unit.nanometer, **options}
    potential, params, groups = solvent(files, topology, **options)
    listed = neighbor_list(x, None, 0.9) if potential.cutoff else None
    energy, forces, gradient = derivatives(potential, params, jnp.asarray(x), None, listed)
    system = app.ForceField(*files).createSystem(topology, **options)
    expected, expected_forces = of_openmm(system, x)
    np.testing.assert_allclose(energy, expected, rtol=1e-11)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-11 * np.abs(expected_forces).max())
    rng = np.random.default_rng(0)
    assert any(np.any(slope != 0) for slope in gradient["NonbondedForce"].values())
    for group in groups:
        for column, slopes in gradient[group.name].items():
            values = np.asarray(params[group.name][column])
            direction = rng.normal(size=values.shape)
            step, energies = 1e-6, []
            for h in (step, -step):
                changed = {**params[group.name], column: values + h * direction}
                edited = mm.XmlSerializer.deserialize(mm.XmlSerializer.serialize(system))
                group.apply(edited, changed)
                energies.append(of_openmm(edited, x)[0])
            slope = (energies[0] - energies[1]) / (2.0 * step)
            scale = 1e-6 * np.abs(slopes).max() + 1e-11 * abs(expected) / step
            np.testing.assert_allclose(np.sum(slopes * direction), slope, rtol=1e-6, atol=scale, err_msg=column)


def test_periodic_solvent():
    topology, x = molecule("dipeptide")
    box = np.diag([2.4, 2.5, 2.6])
    topology.setPeriodicBoxVectors(box * unit.nanometer)
    files = (PROTEIN, "implicit/obc2.xml")
    options = {"nonbondedMethod": app.CutoffPeriodic, "nonbondedCutoff": 0.8 * unit.nanometer, "sasaMethod": "LCPO"}
    potential, params, _ = solvent(files, topology, **options)
    spread = x + np.random.default_rng(0).integers(-1, 2, x.shape) @ box
    listed = neighbor_list(spread, box, potential.cutoff)
    energy, forces, _ = derivatives(potential, params, jnp.asarray(spread), jnp.asarray(box), listed)
    expected, expected_forces = of_openmm(app.ForceField(*files).createSystem(topology, **options), spread)
    np.testing.assert_allclose(energy, expected, rtol=1e-11)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())


def test_rows_are_the_kinds_of_atoms():
    (group, area) = implicit_solvent(read_files((PROTEIN, "implicit/gbn2.xml")))
    assert isinstance(group, ImplicitSolvent) and isinstance(area, SurfaceArea)
    start = group.parameters.initial()
    rows = dict(
        zip(group.kinds.names, np.stack([start["radius"], start["scale"], start["alpha"]], axis=1), strict=True)
    )
    np.testing.assert_allclose(rows["N"], [0.155, 0.733599, 0.503364])
    np.testing.assert_allclose(rows["O of a carboxylate"], [0.14, 1.061039, 0.867814])
    np.testing.assert_allclose(rows["HE and HH of arginine"], [0.117, 1.425952, 0.788440])
    np.testing.assert_allclose(start["offset"], 0.0195141)
    np.testing.assert_allclose(start["neck_scale"], 0.826836)
    np.testing.assert_allclose(start["surface_energy"], 28.3919551)
    assert set(group.parameters.units) >= set(start)


def test_an_unchanged_solvent_is_applied_without_effect():
    """Up to the order in which tables list the radii."""
    topology, x = molecule("dipeptide")
    files = (PROTEIN, "implicit/gbn2.xml")
    system = app.ForceField(*files).createSystem(topology)
    expected, _ = of_openmm(system, x)
    for group in implicit_solvent(read_files(files)):
        group.apply(system, group.parameters.initial())
    np.testing.assert_allclose(of_openmm(system, x)[0], expected, rtol=1e-14)


def test_files_cannot_hold_the_numbers(tmp_path):
    ff = ForceField(PROTEIN, "implicit/obc2.xml")
    params = ff.params()
    assert ff.units["ImplicitSolvent/radius"] == "nm"
    ff.write(tmp_path, params)
    params["ImplicitSolvent"]["radius"] = params["ImplicitSolvent"]["radius"] * 1.01
    with pytest.raises(InputError, match="ImplicitSolvent/radius has changed"):
        ff.write(tmp_path, params)


def test_two_solvents_are_refused():
    with pytest.raises(InputError, match="two implicit solvents"):
        ForceField(PROTEIN, "implicit/obc2.xml", "implicit/hct.xml")


# ------------------------------------------------------------------ <GBSAOBCForce>
TOY = """<ForceField>
 <AtomTypes><Type name="a" class="A" element="C" mass="12"/>
 <Type name="b" class="B" element="O" mass="16"/></AtomTypes>
 <Residues><Residue name="T">
  <Atom name="X" type="a" charge="0.4"/> <Atom name="Y" type="b" charge="-0.6"/> <Atom name="Z" type="a" charge="0.2"/>
  <Bond atomName1="X" atomName2="Y"/> <Bond atomName1="Y" atomName2="Z"/>
 </Residue></Residues>
 <NonbondedForce coulomb14scale="0.8" lj14scale="0.5">{nonbonded}</NonbondedForce>
 <GBSAOBCForce>{solvent}</GBSAOBCForce>
</ForceField>"""
RESIDUE = '<UseAttributeFromResidue name="charge"/>'
NONBONDED = '<Atom class="A" {a} sigma="0.3" epsilon="0.1"/> <Atom class="B" {b} sigma="0.3" epsilon="0.1"/>'
SOLVENT = '<Atom class="A" {a} radius="0.17" scale="0.72"/> <Atom type="b" {b} radius="0.15" scale="0.85"/>'
CHARGES = {"a": 'charge="0.3"', "b": 'charge="-0.5"'}
NONE = {"a": "", "b": ""}


def toy(folder: Path, nonbonded: dict, solvent: dict) -> tuple[Path, app.Topology, np.ndarray]:
    path = folder / "toy.xml"
    sections = [
        ("" if charges else RESIDUE) + row.format(**charges or NONE)
        for row, charges in ((NONBONDED, nonbonded), (SOLVENT, solvent))
    ]
    path.write_text(TOY.format(nonbonded=sections[0], solvent=sections[1]))
    topology = app.Topology()
    residue = topology.addResidue("T", topology.addChain())
    atoms = [topology.addAtom(n, app.Element.getBySymbol(s), residue) for n, s in zip("XYZ", "COC", strict=True)]
    topology.addBond(atoms[0], atoms[1])
    topology.addBond(atoms[1], atoms[2])
    return path, topology, np.array([[0.0, 0.0, 0.0], [0.14, 0.0, 0.01], [0.2, 0.13, 0.0]])


@pytest.mark.parametrize("of_nonbonded", [{}, CHARGES], ids=["residue", "rows"])
@pytest.mark.parametrize("of_solvent", [{}, CHARGES], ids=["residue", "rows"])
def test_the_tag_is_the_force_of_openmm(tmp_path, of_nonbonded, of_solvent):
    """Charges of the solvent are its own, or those of the residues, which NonbondedForce may use too."""
    path, topology, x = toy(tmp_path, of_nonbonded, of_solvent)
    ff = ForceField(path)
    potential, params = ff.create_potential(topology), ff.params()
    assert ("charge" in params["GBSAOBCForce"]) == bool(of_solvent or of_nonbonded)
    energy, forces, gradient = derivatives(potential, params, jnp.asarray(x), None, neighbor_list(x, None, 0.1))
    expected, expected_forces = of_whole(app.ForceField(str(path)).createSystem(topology), x)
    np.testing.assert_allclose(energy, expected, rtol=1e-12)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-11 * np.abs(expected_forces).max())
    for group, columns in gradient.items():
        for column, slopes in columns.items():
            direction = np.random.default_rng(1).normal(size=np.shape(slopes))
            energies = []
            for h in (1e-5, -1e-5):
                changed = {**params, group: {**params[group], column: params[group][column] + h * direction}}
                energies.append(of_whole(ff.create_system(topology, changed), x)[0])
            slope = (energies[0] - energies[1]) / 2e-5
            np.testing.assert_allclose(np.sum(slopes * direction), slope, rtol=1e-6, atol=1e-5, err_msg=column)


@pytest.mark.parametrize("file", [pytest.param("amber96", marks=pytest.mark.slow), "amber99sb:amber99"])
def test_files_that_ship_with_openmm(file):
    """Their solvent, and the reaction field that OpenMM switches off beside it."""
    base, _, solvent_of = file.partition(":")
    files = (f"{base}.xml", f"{solvent_of or base}_obc.xml")
    topology, x = molecule("dipeptide")
    options = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.5}
    potential = ForceField(*files).createPotential(topology, **options)
    kept = Potential(terms=tuple(t for t in potential.terms if t.name in ("GBSAOBCForce", "NonbondedForce")))
    found = kept.energies(ForceField(*files).params(), jnp.asarray(x), None, neighbor_list(x, None, 0.5))
    system = app.ForceField(*files).createSystem(topology, **options)
    np.testing.assert_allclose(found["GBSAOBCForce"], of_openmm(system, x)[0], rtol=1e-11)
    for force in system.getForces():
        force.setForceGroup(0 if not isinstance(force, mm.NonbondedForce) else 1)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    expected = context.getState(energy=True, groups={1}).getPotentialEnergy()._value
    np.testing.assert_allclose(found["NonbondedForce"], expected, rtol=1e-11)


def test_charges_in_two_places_are_refused(tmp_path):
    path, _, _ = toy(tmp_path, {}, CHARGES)
    path.write_text(path.read_text().replace("<GBSAOBCForce>", f"<GBSAOBCForce>{RESIDUE}"))
    with pytest.raises(InputError, match="one of the two places"):
        ForceField(path)
    path.write_text(
        path.read_text().replace(f"<GBSAOBCForce>{RESIDUE}", f"<GBSAOBCForce>{RESIDUE}".replace("charge", "scale"))
    )
    with pytest.raises(InputError, match="only charges"):
        ForceField(path)


def test_options_and_numbers_of_a_force_field():
    """With salt, another surface and a cutoff: the same energy here, in OpenMM, and after a change in both."""
    topology, x = molecule("dipeptide")
    files = (PROTEIN, "implicit/obc2.xml")
    given = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.8 * unit.nanometer, **SALT}
    given |= {"sasaMethod": "LCPO", "constraints": app.HBonds}
    ff = ForceField(*files)
    params = ff.params()
    potential = ff.createPotential(topology, **given)
    listed = neighbor_list(x, None, potential.cutoff)
    system = app.ForceField(*files).createSystem(topology, **given)
    for _ in range(2):
        energy, forces, _ = derivatives(potential, params, jnp.asarray(x), None, listed)
        expected, expected_forces = of_whole(system, x)
        np.testing.assert_allclose(energy, expected, rtol=1e-11)
        np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())
        params["ImplicitSolvent"] = {**params["ImplicitSolvent"], "radius": 1.05 * params["ImplicitSolvent"]["radius"]}
        system = ff.create_system(topology, params, **given)


def test_options_without_an_implicit_solvent():
    with pytest.raises(InputError, match="sasaMethod was given, but this force field has no implicit solvent"):
        ForceField(PROTEIN).create_potential(molecule("dipeptide")[0], sasa_method="none")
