"""A model for torch-sim: several systems at once have the numbers of the potential, and their energy is kept."""

import re

import numpy as np
import pytest

from diffff import units
from diffff.errors import InputError
from tests.md.systems import MODEL, ROOT, deep_water, hybrid

pytest.importorskip("torch_sim")
pytest.importorskip("ase")

import torch
import torch_sim
from ase import Atoms

from diffff.md.torch_sim import DiffffModel

pytestmark = pytest.mark.slow  # as many seconds as programs to compile

SHEAR = np.array([[1.0, 0.0, 0.0], [0.1, 1.02, 0.0], [-0.05, 0.08, 0.97]])
FORCE = units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM


def atoms_of(system, shear=None):
    shear = np.eye(3) if shear is None else shear
    return Atoms(system.symbols, 10.0 * system.positions @ shear, cell=10.0 * system.box @ shear, pbc=True)


def state_of(*atoms):
    return torch_sim.io.atoms_to_state(list(atoms), device=torch.device("cpu"), dtype=torch.float64)


@pytest.mark.parametrize("name", ["model", "hybrid"])
def test_energies_forces_and_stresses_are_those_of_the_potential(name, tmp_path):
    system = hybrid(tmp_path) if name == "hybrid" else deep_water()
    bound = {"potential": system.potential, "params": system.params, "symbols": system.symbols}
    model = DiffffModel(**(bound if name == "hybrid" else {"model": MODEL}))
    found = model(state_of(atoms_of(system), atoms_of(system, SHEAR)))
    for k, shear in enumerate((np.eye(3), SHEAR)):
        x, box = system.positions @ shear, system.box @ shear
        energy, forces, virial = system.expected(x, box)
        assert found["energy"][k].item() * units.KJ_PER_MOL_PER_EV == pytest.approx(energy, rel=1e-9)
        ours = found["forces"][96 * k : 96 * k + 96].numpy() * FORCE
        np.testing.assert_allclose(ours, forces, rtol=0, atol=1e-9 * np.abs(forces).max())
        stress = -virial * units.EV_PER_KJ_PER_MOL / np.linalg.det(10.0 * box)
        np.testing.assert_allclose(found["stress"][k].numpy(), stress, rtol=0, atol=1e-9 * np.abs(stress).max())


def test_nve_keeps_the_energy_of_two_systems():
    model, totals, potentials = DiffffModel(MODEL), [], []
    state = state_of(atoms_of(deep_water()), atoms_of(deep_water(), SHEAR))
    torch.manual_seed(1)
    for _ in range(10):
        state = torch_sim.integrate(
            system=state, model=model, integrator=torch_sim.nve, n_steps=4, temperature=300.0, timestep=0.00025
        )
        kinetic = torch_sim.calc_kinetic_energy(
            masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
        ).numpy()
        potentials.append(state.energy.numpy())
        totals.append(kinetic + potentials[-1])
    assert (np.std(totals, axis=0) < 0.05 * np.std(potentials, axis=0)).all()


def test_the_block_of_the_page(tmp_path, monkeypatch):
    (tmp_path / "water.dp").symlink_to(MODEL)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names = {"atoms": atoms_of(deep_water())}
    exec(compile(block, "engines.md", "exec"), names)
    assert names["end"].energy.shape == (2,)


def test_what_makes_no_sense_is_refused():
    model = DiffffModel(MODEL)
    sulfur = atoms_of(deep_water())
    sulfur.symbols[7] = "S"
    with pytest.raises(InputError, match=r"atom 7 \(from 0\) is 'S', but the model has the types O, H only"):
        model(state_of(sulfur))
    with pytest.raises(InputError, match="give either model, or potential with params"):
        DiffffModel()
    with pytest.raises(InputError, match="dtype is 'float16'"):
        DiffffModel(MODEL, dtype="float16")
