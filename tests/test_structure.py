"""Structures: the same atoms from every kind of file, molecules in one piece."""

from pathlib import Path

import numpy as np
import openmm.app as app
import pytest
from openmm import Vec3, unit

from diffff import structure
from diffff.errors import InputError
from diffff.structure import Structure

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data/water/valid/300K"


def water(shift=0.0) -> Structure:
    """Two molecules of water; the second lies across the boundary."""
    topology = app.Topology()
    topology.setPeriodicBoxVectors([Vec3(1, 0, 0), Vec3(0.2, 1, 0), Vec3(0.1, 0.3, 1)] * unit.nanometer)
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("HOH", chain)
        o, *others = (topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2"))
        for h in others:
            topology.addBond(o, h)
    x = np.array([[0.5, 0.5, 0.5], [0.55, 0.58, 0.5], [0.45, 0.58, 0.5], [0.02, 0.5, 0.1]])
    box = np.array([[1.0, 0, 0], [0.2, 1, 0], [0.1, 0.3, 1]])
    second = [x[3], x[3] + [0.05, 0.08, 0] + shift * (box[2] - box[0]), x[3] + [-0.05, 0.08, 0] + shift * box[1]]
    return Structure(tuple("OHHOHH"), np.array([*x[:3], *second]), box, topology)


def test_molecules_are_what_bonds_connect():
    np.testing.assert_array_equal(water().molecules(), [0, 0, 0, 1, 1, 1])


def test_a_molecule_that_a_boundary_has_cut_is_made_whole():
    np.testing.assert_allclose(water(shift=2).whole().positions, water().positions, atol=1e-12)
    alone = Structure(("He",), np.array([[5.0, 0, 0]]), np.eye(3))
    assert alone.whole() is alone


def test_every_kind_of_file_gives_the_same_atoms(tmp_path):
    ase_io = pytest.importorskip("ase.io")
    of_data = structure.read(DATA, frame=3)
    assert of_data.symbols.count("O") == 32
    order = np.argsort(of_data.symbols, kind="stable")
    from ase import Atoms

    assert of_data.box is not None
    atoms = Atoms(of_data.symbols, 10 * of_data.positions, cell=10 * of_data.box, pbc=True)
    ase_io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    ase_io.write(tmp_path / "POSCAR", atoms[order], format="vasp")
    for name, expected in (("a.xyz", slice(None)), ("POSCAR", order)):
        found = structure.read(tmp_path / name)
        assert found.symbols == tuple(np.array(of_data.symbols)[expected])
        np.testing.assert_allclose(found.positions, of_data.positions[expected], atol=1e-8)
        np.testing.assert_allclose(found.box, of_data.box, atol=1e-8)


def test_a_data_set_is_read_in_the_order_of_its_files():
    raw = np.load(DATA / "set.000/coord.npy")[0].reshape(-1, 3)
    found = structure.read(DATA)
    np.testing.assert_allclose(found.positions, raw / 10, rtol=1e-14)
    names = (DATA / "type_map.raw").read_text().split()
    assert found.symbols == tuple(names[int(t)] for t in (DATA / "type.raw").read_text().split())


def test_sites_that_a_file_lacks_are_added():
    plain = structure.read(ROOT / "tests/references/molecules/water.pdb")
    with_sites = structure.read(ROOT / "tests/references/molecules/water.pdb", extra_particles=["tip4pew.xml"])
    assert len(with_sites.symbols) == len(plain.symbols) * 4 // 3
    assert with_sites.symbols.count(None) == len(plain.symbols) // 3
    assert len(np.unique(with_sites.molecules())) == len(plain.symbols) // 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none.pdb", {}, "no such file"),
        ("none.xyz", {}, "there is no such file"),
        ("a.gro", {}, "no format of structures is known by this name"),
        ("broken.pdb", {}, "OpenMM cannot read it"),
        ("broken.xyz", {}, "ASE cannot read frame 0"),
        (DATA, {"frame": 99}, "there is no frame 99"),
        (DATA.parent.parent, {}, "systems below it; name one"),
        (DATA, {"extra_particles": ["tip4pew.xml"]}, "only PDB and mmCIF"),
    ],
)
def test_what_cannot_be_read_is_said_so(name, options, message, tmp_path):
    pytest.importorskip("ase")
    for file in ("a.gro", "broken.pdb", "broken.xyz"):
        (tmp_path / file).write_text("ATOM no atom\n")
    with pytest.raises(InputError, match=message):
        structure.read(tmp_path / name, **options)
