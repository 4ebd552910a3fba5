"""Trajectories: read by programs we did not write, by the published formats, and continued after a run was killed."""

import json
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import openmm.app as app
import pytest
from openmm import Vec3, unit

from diffff.errors import InputError
from diffff.md.trajectory import Frame, open_trajectory

BOX = np.array([[1.8, 0.0, 0.0], [0.3, 1.9, 0.0], [-0.2, 0.5, 2.1]])
EV = 1.602176634e-19 * 6.02214076e23 / 1000  # kJ/mol
SUFFIXES = (".dcd", ".xyz", ".h5")


def waters(n_molecules=4):
    topology = app.Topology()
    topology.setPeriodicBoxVectors([Vec3(*row) for row in BOX] * unit.nanometer)
    for chain in (topology.addChain("A"), topology.addChain("B")):
        for _ in range(n_molecules // 2):
            residue = topology.addResidue("HOH", chain)
            o, h1, h2, _ = (
                topology.addAtom(name, element, residue)
                for name, element in (
                    ("O", app.element.oxygen), ("H1", app.element.hydrogen), ("H2", app.element.hydrogen), ("M", None)
                )
            )  # fmt: skip
            topology.addBond(o, h1)
            topology.addBond(o, h2)
    return topology


def frames(n_frames=10, n_atoms=16, *, box=True, interval=20, first=0, full=True):
    """Frames of random numbers, 2 fs per step; the box breathes."""
    rng = np.random.default_rng(3)
    made = []
    for k in range(n_frames):
        x, v, f = (scale * rng.normal(size=(n_atoms, 3)) for scale in (1.0, 0.5, 800.0))
        step = first + interval * k
        frame = Frame(step, 0.002 * step, x, BOX * (1.0 + 0.01 * rng.normal()) if box else None)
        if full:
            energies = {"potential_energy": -1e3 - k, "kinetic_energy": 3.0 + k, "temperature": 300.0 + k}
            frame = frame._replace(velocities=v, forces=f, **energies)
        made.append(frame)
    return made


def write(path, some, atoms=None, **options):
    with open_trajectory(path, waters() if atoms is None else atoms, **options) as trajectory:
        for frame in some:
            trajectory.write(frame)
    return path


def angles(box):
    """Angles alpha, beta, gamma, degrees."""
    a, b, c = box / np.linalg.norm(box, axis=1)[:, None]
    return np.degrees(np.arccos([b @ c, a @ c, a @ b]))


# ---------------------------------------------------------------------- what other programs read
@pytest.mark.parametrize("first", [0, 40])
def test_dcd_is_what_openmm_writes(tmp_path, first):
    """Positions byte for byte; the cosines of the cell are computed in another way, the last digit may differ."""
    made, topology = frames(first=first), waters()
    with (tmp_path / "openmm.dcd").open("w+b") as file:
        writer = app.DCDFile(file, topology, 0.002 * unit.picosecond, first, 20)
        for frame in made:
            writer.writeModel(frame.positions * unit.nanometer, periodicBoxVectors=frame.box * unit.nanometer)
    theirs, ours = (tmp_path / "openmm.dcd").read_bytes(), write(tmp_path / "a.dcd", made).read_bytes()
    assert len(theirs) == len(ours)
    assert theirs[:100] == ours[:100]  # all numbers of the header; two titles follow
    assert theirs[260:276] == ours[260:276]
    for at in range(276, len(ours), 56 + 3 * (8 + 4 * 16)):
        np.testing.assert_allclose(
            *(struct.unpack("<6d", data[at + 4 : at + 52]) for data in (theirs, ours)), atol=2e-15
        )
        assert theirs[at + 52 : at + 272] == ours[at + 52 : at + 272]


def test_dcd_is_read_by_mdtraj(tmp_path):
    mdtraj = pytest.importorskip("mdtraj")
    made = frames()
    found = mdtraj.load_dcd(str(write(tmp_path / "a.dcd", made)), top=mdtraj.Topology.from_openmm(waters()))
    np.testing.assert_allclose(found.xyz, [frame.positions for frame in made], atol=2e-7)
    np.testing.assert_allclose(found.unitcell_vectors, [frame.box for frame in made], atol=1e-6)
    plain = mdtraj.load_dcd(
        str(write(tmp_path / "b.dcd", frames(box=False))), top=mdtraj.Topology.from_openmm(waters())
    )
    assert plain.n_frames == 10 and plain.unitcell_vectors is None


def test_extended_xyz_is_read_by_ase(tmp_path):
    read = pytest.importorskip("ase.io").read
    for made in (frames(), frames(box=False)):
        found = read(write(tmp_path / "a.xyz", made), index=":")
        assert len(found) == len(made)
        for atoms, frame in zip(found, made, strict=True):
            assert atoms.get_chemical_symbols() == ["O", "H", "H", "X"] * 4
            np.testing.assert_allclose(atoms.positions, 10 * frame.positions, atol=6e-9)
            np.testing.assert_allclose(atoms.cell.array, 0 if frame.box is None else 10 * frame.box, atol=6e-11)
            assert (atoms.pbc == (frame.box is not None)).all()
            np.testing.assert_allclose(atoms.arrays["vel"], 10 * frame.velocities, atol=6e-9)
            np.testing.assert_allclose(atoms.get_forces(), frame.forces / EV / 10, atol=6e-9)
            np.testing.assert_allclose(atoms.get_potential_energy(), frame.potential_energy / EV, rtol=1e-15)
            np.testing.assert_allclose(atoms.info["kinetic_energy"], frame.kinetic_energy / EV, rtol=1e-15)
            assert (atoms.info["step"], atoms.info["time"]) == (frame.step, frame.time)
            assert atoms.info["temperature"] == frame.temperature


def test_hdf5_is_read_by_mdtraj(tmp_path):
    mdtraj = pytest.importorskip("mdtraj")
    pytest.importorskip("tables")
    made = frames()
    path = str(write(tmp_path / "a.h5", made))
    found = mdtraj.load_hdf5(path)
    np.testing.assert_allclose(found.xyz, [frame.positions for frame in made], rtol=6e-8)
    np.testing.assert_allclose(found.unitcell_vectors, [frame.box for frame in made], atol=1e-6)
    np.testing.assert_allclose(found.time, [frame.time for frame in made], rtol=1e-7)
    assert found.topology == mdtraj.Topology.from_openmm(waters())
    assert [atom.element.symbol for atom in found.topology.atoms] == ["O", "H", "H", "VS"] * 4
    with mdtraj.formats.HDF5TrajectoryFile(path) as file:
        everything = file.read()
        assert (file.application, file.constraints) == ("diffff", None)
    for ours, theirs in (
        ("velocities", "velocities"), ("potential_energy", "potentialEnergy"),
        ("kinetic_energy", "kineticEnergy"), ("temperature", "temperature"),
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(everything, theirs), [getattr(f, ours) for f in made], rtol=6e-8)


# ---------------------------------------------------------------------- the published formats, by hand
def test_the_header_of_a_dcd_file(tmp_path):
    """CHARMM's control numbers; 1 AKMA unit of time is sqrt(amu Å²/(kcal/mol))."""
    made = frames(4, first=60)
    data = write(tmp_path / "a.dcd", made).read_bytes()
    assert data[:8] == struct.pack("<i4s", 84, b"CORD") and data[88:92] == struct.pack("<i", 84)
    control = struct.unpack("<20i", data[8:88])
    assert control[:4] == (4, 60, 20, 120)  # frames, first step, steps between, last step
    assert control[10] == 1 and control[19] == 24
    akma = np.sqrt(1.66053906660e-27 * 1e-20 * 6.02214076e23 / 4184.0) * 1e12  # ps
    np.testing.assert_allclose(struct.unpack("<f", data[44:48])[0] * akma, 0.002, rtol=1e-6)
    frame = np.frombuffer(data[276 + 56 : 276 + 56 + 3 * 72], "<i4").reshape(3, 18)
    assert (frame[:, [0, -1]] == 64).all()
    np.testing.assert_array_equal(frame[:, 1:-1].copy().view("<f4"), (10 * made[0].positions.T).astype("f4"))


def test_the_text_of_an_extended_xyz_file(tmp_path):
    x = np.array([[0.1, 0.2, 0.3], [-1.0, 0.0, 12.3456789]])
    path = write(tmp_path / "a.extxyz", [Frame(0, 0.0, x, np.diag([1.0, 2.0, 3.0])), Frame(5, 0.1, x)], ["Cl", "X"])
    assert path.read_text().splitlines() == [
        "2",
        'Lattice="10.0000000000 0.0000000000 0.0000000000 0.0000000000 20.0000000000 0.0000000000 0.0000000000 '
        '0.0000000000 30.0000000000" Properties=species:S:1:pos:R:3 step=0 time=0.0 pbc="T T T"',
        "Cl      1.00000000      2.00000000      3.00000000",
        "X     -10.00000000      0.00000000    123.45678900",
        "2",
        'Properties=species:S:1:pos:R:3 step=5 time=0.1 pbc="F F F"',
        "Cl      1.00000000      2.00000000      3.00000000",
        "X     -10.00000000      0.00000000    123.45678900",
    ]


def test_the_columns_of_an_hdf5_file(tmp_path):
    made = frames()
    with h5py.File(write(tmp_path / "a.hdf5", made)) as file:
        assert file.attrs["conventions"] == "Pande"
        np.testing.assert_allclose(file["cell_lengths"][3], np.linalg.norm(made[3].box, axis=1), rtol=1e-7)
        np.testing.assert_allclose(file["cell_angles"][3], angles(made[3].box), rtol=1e-7)
        np.testing.assert_array_equal(file["step"], [frame.step for frame in made])
        np.testing.assert_array_equal(file["time"], [frame.time for frame in made])
        np.testing.assert_allclose(file["forces"], [frame.forces for frame in made], rtol=6e-8)
        assert file["coordinates"].attrs["units"] == "nanometers"
        topology = json.loads(file["topology"][0])
    assert topology["bonds"][2] == [4, 5]
    assert topology["chains"][1]["residues"][0]["atoms"][3] == {"index": 11, "name": "M", "element": "VS"}
    with h5py.File(write(tmp_path / "b.h5", frames(box=False, full=False))) as file:
        assert set(file) == {"topology", "coordinates", "time", "step"}


def test_steps_beyond_32_bits_are_counted_in_intervals(tmp_path):
    """As OpenMM does: the times of the frames stay right."""
    made = frames(5, first=2147483600, interval=20, full=False)  # 2**31 = 2147483648
    path, whole = tmp_path / "a.dcd", write(tmp_path / "whole.dcd", made).read_bytes()
    n, first, interval, last = struct.unpack("<4i", whole[8:24])
    delta = struct.unpack("<f", whole[44:48])[0] * 0.04888821
    assert (n, interval, last) == (5, 1, made[-1].step // 20)
    np.testing.assert_allclose(first * delta, made[0].time, rtol=1e-7)
    for kept in (2, 4):
        write(path, made[:-1])
        write(path, made[kept:], append_at_step=made[kept - 1].step)
        assert path.read_bytes() == whole
    with pytest.raises(InputError, match="step 2147483690 does not fit into the header"):
        write(path, frames(5, first=2147483610, interval=20))


# ---------------------------------------------------------------------- continuation
def same(a, b):
    if a.suffix != ".h5":
        assert a.read_bytes() == b.read_bytes()
        return
    with h5py.File(a) as one, h5py.File(b) as other:
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name][...], other[name][...])
            assert one[name].dtype == other[name].dtype and dict(one[name].attrs) == dict(other[name].attrs)
        assert dict(one.attrs) == dict(other.attrs)


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("first", [0, 40])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_continued_file_is_that_of_a_run_without_interruption(tmp_path, suffix, first, box):
    """Continued from each step on, also from one between frames, before the first and after the last."""
    made = frames(6, box=box, first=first)
    whole, path = write(tmp_path / f"whole{suffix}", made), tmp_path / f"a{suffix}"
    for step in range(0, first + 110, 10):
        with open_trajectory(path, waters()) as trajectory:
            for k, frame in enumerate(made):
                trajectory.write(frame)
                if k % 2:
                    trajectory.flush()
        if suffix != ".h5":
            with path.open("ab") as file:  # a part of a frame
                begun = 0 if suffix == ".xyz" else 276  # where a frame begins
                file.write(path.read_bytes()[begun : begun + 124])
        later = [frame for frame in made if frame.step > step]
        with open_trajectory(path, waters(), append_at_step=step) as trajectory:
            assert trajectory.last_step == max((frame.step for frame in made if frame.step <= step), default=-1)
            for frame in later:
                trajectory.write(frame)
                trajectory.flush()
        same(path, whole)


RUN = """
import sys
from diffff.md.trajectory import open_trajectory
from tests.md.test_trajectory import frames, waters
made = frames(400)
with open_trajectory(sys.argv[1], waters()) as trajectory:
    for frame in made:
        trajectory.write(frame)
        trajectory.flush()
        if frame.step == 400:
            print("checkpoint", flush=True)
    while True:
        trajectory.flush()
"""


def test_a_run_that_is_killed_loses_nothing_up_to_its_checkpoint(tmp_path):
    """One process for each format, killed while it writes."""
    made = frames(400)
    running = {}
    for suffix in SUFFIXES:
        command = [sys.executable, "-c", RUN, str(tmp_path / f"a{suffix}")]
        running[suffix] = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    for suffix, process in running.items():
        assert process.stdout.readline() == b"checkpoint\n"
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        path = write(tmp_path / f"a{suffix}", made[21:], append_at_step=400)
        same(path, write(tmp_path / f"whole{suffix}", made))


def test_what_was_flushed_is_on_disk(tmp_path):
    """While the run goes on, other processes see the frames; here the same one, by another handle."""
    for suffix in SUFFIXES:
        with open_trajectory(tmp_path / f"a{suffix}", waters()) as trajectory:
            for k, frame in enumerate(frames()):
                trajectory.write(frame)
                trajectory.flush()
                same(tmp_path / f"a{suffix}", write(tmp_path / f"b{suffix}", frames()[: k + 1]))


# ---------------------------------------------------------------------- what makes no sense
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_that_make_no_sense_are_refused(tmp_path, suffix):
    made = frames(4)
    path = tmp_path / f"a{suffix}"
    with open_trajectory(path, waters()) as trajectory:
        trajectory.write(made[0])
        broken = made[1].positions.copy()
        broken[3, 1] = np.nan
        for frame, message in (
            (made[0], r"frame of step 0: the file is at step 0 already"),
            (
                made[1]._replace(positions=made[1].positions[:-1]),
                r"step 20: positions of shape \(15, 3\) given.*\(16, 3\)",
            ),
            (made[1]._replace(positions=broken), "finite numbers"),
            (made[1]._replace(step="20"), "the step must be a whole number, 0 or more"),
            (made[1]._replace(velocities=np.zeros(3)), "velocities of shape"),
            (made[1]._replace(potential_energy=np.nan), "potential_energy is nan"),
            (made[1]._replace(box=np.zeros((3, 3))), "span a volume"),
        ):
            with pytest.raises(InputError, match=message):
                trajectory.write(frame)
        for frame in made[1:]:
            trajectory.write(frame)
    same(path, write(tmp_path / f"b{suffix}", made))  # nothing of them was written


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    made = frames(4)
    turned = made[0]._replace(box=BOX[[1, 2, 0]])
    for suffix in (".dcd", ".h5"):
        with pytest.raises(InputError, match=r"first vector must be along \+x"):
            write(tmp_path / f"a{suffix}", [turned])
    with pytest.raises(InputError, match="equally spaced frames; the next one was due at step 40"):
        write(tmp_path / "a.dcd", [*made[:2], made[3]])
    with pytest.raises(InputError, match=r"time is its step times one time step, here 0.08.* ps, but .* at 0.05 ps"):
        write(tmp_path / "a.dcd", [*made[:2], made[2]._replace(time=0.05)][1:])
    with pytest.raises(InputError, match="a box in all frames or in none"):
        write(tmp_path / "a.dcd", [made[0], made[1]._replace(box=None)])
    with pytest.raises(InputError, match="forces is not in this frame"):
        write(tmp_path / "a.h5", [made[0], made[1]._replace(forces=None)])


def test_files_that_cannot_be_written_or_continued_are_refused(tmp_path):
    made = frames(4)
    with pytest.raises(
        InputError, match=r'"\.trr" is no trajectory format.*\.dcd .*\.xyz or \.extxyz .*\.h5 or \.hdf5'
    ):
        open_trajectory(tmp_path / "a.trr", waters())
    with pytest.raises(InputError, match=r'atom 1 .* is "OW", which is no chemical element'):
        open_trajectory(tmp_path / "a.xyz", ["O", "OW"])
    for atoms in (None, "O"):
        with pytest.raises(InputError, match=r"a\.xyz: atoms are .*; give a topology, or a list of symbols"):
            open_trajectory(tmp_path / "a.xyz", atoms)
    with pytest.raises(InputError, match="the path of a trajectory is 5; give the name of a file"):
        open_trajectory(5, waters())
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        with pytest.raises(InputError, match="there is no such file"):
            open_trajectory(path, waters(), append_at_step=0)
        path.write_text("something else, of many characters\n" * 40)
        kept = path.read_bytes()
        with pytest.raises(InputError, match="cannot be continued in this file"):
            open_trajectory(path, waters(), append_at_step=0)
        assert path.read_bytes() == kept
        path.write_text("no line of it ends")
        with pytest.raises(InputError, match="cannot be continued in this file"):
            open_trajectory(path, waters(), append_at_step=0)
        assert path.read_text() == "no line of it ends"
        write(path, made)
        with pytest.raises(InputError, match="16 atoms"):
            open_trajectory(path, ["O"] * 12, append_at_step=40)
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"):
            open_trajectory(tmp_path / "file" / f"a{suffix}", waters())
    for suffix, message in (
        (".dcd", "it has 2 of the 3 frames up to step 40"),
        (".xyz", "breaks off within the frame of step 40"),
    ):
        data = (tmp_path / f"a{suffix}").read_bytes()
        (tmp_path / f"a{suffix}").write_bytes(data[: int(0.7 * len(data))])
        with pytest.raises(InputError, match=message):
            open_trajectory(tmp_path / f"a{suffix}", waters(), append_at_step=40)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("suffix", [".dcd", ".xyz"])
def test_a_full_disk_is_told(tmp_path, suffix):
    (tmp_path / f"a{suffix}").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device"):
        write(tmp_path / f"a{suffix}", frames(500))
