"""The calculator for ASE: its numbers are the potential's, and ASE's own checks and dynamics agree with them."""

import ase.units
import numpy as np
import pytest

from diffff import units
from diffff.errors import InputError
from diffff.model import Model
from diffff.potentials.deep import DeepModel
from diffff.spec import validate
from tests.md.systems import MODEL, deep_water, hybrid, peptide

pytest.importorskip("ase")

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from diffff.md.ase import DiffffCalculator

pytestmark = pytest.mark.slow  # as many seconds as programs to compile

FORCE = units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM


def atoms_of(system) -> Atoms:
    atoms = Atoms(system.symbols, 10.0 * system.positions, cell=10.0 * system.box, pbc=True)
    atoms.set_masses(system.masses)
    return atoms


def bound(system, **options) -> Atoms:
    atoms = atoms_of(system)
    atoms.calc = DiffffCalculator(potential=system.potential, params=system.params, **options)
    return atoms


@pytest.fixture(scope="module")
def calculator() -> DiffffCalculator:
    return DiffffCalculator(MODEL)


@pytest.fixture
def water(calculator) -> Atoms:
    atoms = atoms_of(deep_water())
    atoms.calc = calculator
    return atoms


@pytest.mark.parametrize("name", ["model", "deep", "peptide", "hybrid"])
def test_energy_forces_and_stress_are_those_of_the_potential(name, water, tmp_path):
    system = {"peptide": peptide, "hybrid": lambda: hybrid(tmp_path)}.get(name, deep_water)()
    atoms = water if name == "model" else bound(system, symbols=system.symbols)
    energy, forces, virial = system.expected()
    assert atoms.get_potential_energy() * units.KJ_PER_MOL_PER_EV == pytest.approx(energy, rel=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces() * FORCE, forces, rtol=0, atol=1e-9 * np.abs(forces).max())
    stress = -virial / units.KJ_PER_MOL_PER_EV / atoms.get_volume()
    found = atoms.get_stress(voigt=False)
    np.testing.assert_allclose(found, stress, rtol=0, atol=1e-9 * np.abs(stress).max())


def test_stress_and_forces_are_ases_finite_differences(water):
    shear = np.array([[1.0, 0.0, 0.0], [0.1, 1.02, 0.0], [-0.05, 0.08, 0.97]])
    water.set_cell(water.cell.array @ shear, scale_atoms=True)
    scale = np.abs(water.get_stress()).max()
    assert np.abs(calculate_numerical_stress(water, eps=1e-5) - water.get_stress()).max() < 1e-6 * scale
    forces = water.get_forces()[[0, 50]]
    found = calculate_numerical_forces(water, eps=1e-4, iatoms=[0, 50])
    assert np.abs(found - forces).max() < 1e-5 * np.abs(forces).max()


def test_energies_of_atoms_where_terms_have_them(water):
    energy = water.get_potential_energy()
    assert water.get_potential_energies().sum() == pytest.approx(energy, rel=1e-13)
    water.rattle(0.01, seed=1)
    energies = water.get_potential_energies()
    assert energies.sum() == pytest.approx(water.get_potential_energy(), rel=1e-13) != energy
    with pytest.raises(PropertyNotImplementedError):
        bound(peptide()).get_potential_energies()


def test_fire_finds_a_minimum_of_atoms_and_cell(water):
    """The forces and stresses that count are ASE's, on positions and cell together."""
    before, strongest = water.get_potential_energy(), np.abs(water.get_forces()).max()
    water.set_constraint(FixAtoms([0]))
    FIRE(FrechetCellFilter(water, hydrostatic_strain=True), logfile=None).run(fmax=0.05, steps=25)
    assert water.get_potential_energy() < before
    assert np.abs(water.get_forces()).max() < 0.5 * strongest


def test_nve_keeps_the_energy(water):
    """The error of velocity Verlet is of second order: half the step, a quarter of the fluctuation."""
    start = water.get_positions()

    def fluctuation(step: float) -> float:
        water.set_positions(start)
        thermalize_momenta(water, temperature_K=300, rng=np.random.default_rng(1))
        totals = []
        dynamics = VelocityVerlet(water, step * ase.units.fs)
        for _ in dynamics.irun(int(10 / step)):
            totals.append(water.get_total_energy())
        return float(np.std(totals))

    coarse, fine = fluctuation(0.5), fluctuation(0.25)
    assert coarse < 0.02
    assert coarse / fine == pytest.approx(4.0, rel=0.15)


def test_nothing_is_computed_twice_and_everything_after_a_change(water, monkeypatch):
    calls = []
    compute = DiffffCalculator.calculate
    monkeypatch.setattr(DiffffCalculator, "calculate", lambda *a: (calls.append(1), compute(*a)))
    water.get_forces(), water.get_potential_energy(), water.get_stress()
    water.set_initial_charges(np.ones(96))
    water.get_forces()
    assert len(calls) == 1
    energy = water.get_potential_energy()
    water.set_cell(1.01 * water.cell.array)
    assert water.get_potential_energy() != energy
    assert len(calls) == 2
    water.calc.calculate(atoms_of(deep_water()))  # called by hand
    assert water.calc.results["energy"] == energy


def test_a_model_follows_the_elements_and_a_potential_refuses_to(water):
    energy = water.get_potential_energy()
    order = np.random.default_rng(0).permutation(96)
    mixed = water[order]
    mixed.calc = water.calc
    assert mixed.get_potential_energy() == pytest.approx(energy, rel=1e-12)
    fewer = water[:3]
    fewer.calc = water.calc
    fewer.pbc = False
    assert np.isfinite(fewer.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError, match="stress"):
        fewer.get_stress()

    system = deep_water()
    fixed = bound(system)
    fixed.get_potential_energy()
    fixed.set_chemical_symbols(np.array(system.symbols)[order])
    with pytest.raises(InputError, match=r"atom \d+ \(from 0\) is '[OH]', but in the potential it is '[OH]': give"):
        fixed.get_potential_energy()


def test_a_model_with_frame_and_atomic_parameters():
    """Three waters, whose energies are those of `Model.eval`; numbers of atoms stay with these atoms."""
    section = {
        "type_map": ["O", "H"],
        "descriptor": {"type": "se_e2_a", "sel": [4, 8], "rcut": 4.0, "neuron": [4, 8], "axis_neuron": 2},
        "fitting_net": {"neuron": [8], "numb_fparam": 2, "numb_aparam": 1},
    }
    spec = validate(DeepModel, section, "model")
    model = Model(spec, {"DeepPot": spec.init(0)})
    atoms = atoms_of(deep_water())[:9]
    atoms.pbc = False
    extra = {"fparam": [0.4, -0.7], "aparam": np.random.default_rng(2).normal(size=(9, 1))}
    atoms.calc = DiffffCalculator(model, **extra)
    energy, force, _ = model.eval(atoms.positions, None, [0, 1, 1] * 3, **extra)
    assert atoms.get_potential_energy() == pytest.approx(energy[0, 0], rel=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), force[0], rtol=0, atol=1e-7 * np.abs(force).max())
    with pytest.raises(InputError, match=r"atom 0 \(from 0\) is 'H', but in the potential it is 'O'"):
        other = atoms[::-1]
        other.calc = atoms.calc
        other.get_potential_energy()


def test_what_makes_no_sense_is_refused(water):
    system = deep_water()
    sulfur = water.copy()
    sulfur.symbols[7] = "S"
    sulfur.calc = water.calc
    with pytest.raises(InputError, match=r"atom 7 \(from 0\) is 'S', but the model has the types O, H only\."):
        sulfur.get_forces()
    slab = water.copy()
    slab.pbc = (True, True, False)
    slab.calc = water.calc
    with pytest.raises(InputError, match="periodic along a, b, c: yes, yes, no; diffff needs all or none"):
        slab.get_forces()
    flat = water.copy()
    flat.cell = (10.0, 10.0, 0.0)
    flat.calc = water.calc
    with pytest.raises(InputError, match="span a volume"):
        flat.get_forces()
    gas = bound(peptide())
    gas.wrap()
    with pytest.raises(InputError, match=r"are bonded, but \d+\.\d Å apart, more than half the box: wrapped atoms"):
        gas.get_forces()
    gas.pbc = False
    with pytest.raises(InputError, match="PME needs a periodic box"):
        gas.get_forces()
    with pytest.raises(InputError, match="the potential is for 96 atoms, but there are 95"):
        few = bound(system)
        del few[95]
        few.get_forces()
    with pytest.raises(InputError, match=r"atom 0 \(from 0\) is 'O', but in the potential it is 'H'"):
        bound(system, symbols=system.symbols[::-1]).get_forces()
    with pytest.raises(InputError, match="the potential is for 96 atoms, but symbols has 3"):
        bound(system, symbols=["O", "H", "H"])
    with pytest.raises(InputError, match=r"nowhere\.dp: no such file"):
        DiffffCalculator("nowhere.dp")
    with pytest.raises(InputError, match="give either model, or potential with params"):
        DiffffCalculator()
    with pytest.raises(InputError, match="give either model, or potential with params"):
        DiffffCalculator(MODEL, potential=system.potential)
    with pytest.raises(InputError, match="a potential needs params"):
        DiffffCalculator(potential=system.potential)
    section = {
        "type_map": ["O", "H"],
        "descriptor": {"type": "se_e2_a", "sel": [30, 60]},
        "fitting_net": {"numb_fparam": 2},
    }
    spec = validate(DeepModel, section, "model")
    with pytest.raises(InputError, match="this model needs fparam: 2 numbers for each frame"):
        atoms = water.copy()
        atoms.calc = DiffffCalculator(Model(spec, {"DeepPot": spec.init(0)}))
        atoms.get_potential_energy()
    with pytest.raises(InputError, match="model is of the type int; give the path of one"):
        DiffffCalculator(3)
    with pytest.raises(InputError, match="but DeepModel and dict are given"):
        DiffffCalculator(potential=spec, params={})
    with pytest.raises(InputError, match="fparam and aparam belong to a model"):
        DiffffCalculator(potential=system.potential, params=system.params, fparam=[0.1])
    with pytest.raises(InputError, match="there are no atoms"):
        empty = Atoms()
        empty.calc = water.calc
        empty.get_potential_energy()
    with pytest.raises(InputError, match="params and symbols belong to a potential"):
        DiffffCalculator(MODEL, params=system.params)
