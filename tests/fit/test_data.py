"""Frames of data sets: in the order of the topology, in nm and kJ/mol, with lists that hold all pairs."""

import numpy as np
import openmm.app as app
import pytest

from diffff import units
from diffff.data.systems import read_systems
from diffff.errors import InputError
from diffff.fit.data import read_frames
from diffff.fit.problem import Sigmas, predictions
from diffff.model import Model, load
from tests.md.systems import MODEL, ROOT

WATER, ETHANOL = ROOT / "data/water/valid/300K", ROOT / "data/ethanol/valid/300K"


def topology_of(symbols: str) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("ALL", topology.addChain())
    for symbol in symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    return topology


def test_predictions_of_a_deep_potential_are_those_of_its_model():
    model, symbols = load(MODEL), 32 * "O" + 64 * "H"
    direct = model.spec.descriptor.model_copy(update={"evaluation": "direct"})
    model = Model(model.spec.model_copy(update={"descriptor": direct}), model.params)
    types = np.array([model.type_map.index(symbol) for symbol in symbols])
    potential = model.potential(types)
    (system,) = read_frames(str(WATER), topology_of(symbols), potential, model.params)
    found = predictions(system, model.params, Sigmas(energy=1.0, force=1.0, virial=1.0))
    (data,) = read_systems(str(WATER), model.type_map)
    energy, force, virial = model.eval(data.positions, data.boxes, data.types)
    kj, per_nm = units.KJ_PER_MOL_PER_EV, units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM
    np.testing.assert_allclose(found["energy"], energy[:, 0] * kj, rtol=1e-9)
    np.testing.assert_allclose(found["force"], data.in_file_order(force) * per_nm, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found["virial"].reshape(-1, 9), virial * kj, rtol=0, atol=1e-8)
    raw = np.load(WATER / "set.000/force.npy").reshape(-1, 96, 3)
    np.testing.assert_allclose(system.forces, raw * per_nm, rtol=1e-12)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ("CCO", "frames of 9 atoms, but the topology has 3"),
        ("CCHOHHHHH", r"atom 2 \(from 0\) is O, but H in the topology"),
    ],
)
def test_other_atoms_are_refused(symbols, message):
    model = load(MODEL)
    with pytest.raises(InputError, match=message):
        read_frames(str(ETHANOL), topology_of(symbols), model.potential(np.zeros(3, int)), model.params)
