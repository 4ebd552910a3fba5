"""Deep Potentials against DeePMD-kit, option by option, and against their own derivatives.

Every stored case runs on both paths and on all its geometries, which are the frames of one batch. A batch is evaluated
operation by operation: one compiled program per case would take ten times as long as everything else together.
"""

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffff
from diffff.descriptors.radial import SplineBasis
from diffff.errors import InputError
from diffff.md.precision import cast_params
from diffff.model import Model, spline_range
from diffff.neighbors import neighbor_list
from diffff.potentials import deep
from diffff.potentials.base import Potential, energy_and_forces, energy_forces_virial, virial
from diffff.potentials.deep import BLOCK, DeepPot, bind
from diffff.potentials.pairs import pairs_within, truncate
from diffff.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV, NM_PER_ANGSTROM
from tests.check_term import check_term

REFERENCES = Path(__file__).parent.parent / "references" / "deepmd"


def reference_numbers() -> dict[str, np.ndarray]:
    with np.load(REFERENCES / "references.npz", allow_pickle=False) as file:
        return dict(file)


NUMBERS = reference_numbers()
CASES = sorted({key.split("/")[0] for key in NUMBERS if not key.startswith("geometry/")})
GEOMETRIES = ("pbc", "small", "tri", "nopbc")  # oxygen and hydrogen; "three" has sodium too
SHORTEST = 0.75  # Å, less than any distance in them


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    with zipfile.ZipFile(REFERENCES / "models.zip") as archive:
        archive.extractall(folder)
    return {path.stem: diffff.load(path) for path in sorted(folder.glob("*.dp"))}


def with_path(model: Model, **changes: object) -> Model:
    descriptor = model.spec.descriptor.model_copy(update=changes)
    return Model(spec=model.spec.model_copy(update={"descriptor": descriptor}), params=model.params)


def geometry(name: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    box = NUMBERS.get(f"geometry/{name}/box")
    return NUMBERS[f"geometry/{name}/coord"], box, NUMBERS[f"geometry/{name}/types"]


def frames_of(case: str) -> tuple[str, ...]:
    return ("three",) if f"{case}/three/energy" in NUMBERS else GEOMETRIES


def together() -> list[Any]:
    """Cases with rare shapes in one slow test each: there they share what is compiled, whichever process runs them."""
    rare = {"three": [], "float32": [], "neuron": [], "custom": []}
    plain = []
    for case in CASES:
        kind = next((word for word in rare if word in case), "three" if frames_of(case) == ("three",) else None)
        plain.append([case]) if kind is None else rare[kind].append(case)
    return [*plain, *(pytest.param(cases, marks=pytest.mark.slow) for cases in rare.values())]


def is_single(model: Model) -> bool:
    return "float32" in (model.spec.descriptor.precision, model.spec.fitting_net.precision)


# ---------------------------------------------------------------------- all geometries of a case at once
def slots_of(names: tuple[str, ...], n_types: int) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """Slots of each type that suffice for all frames, and for each frame the slot of each atom."""
    counts = {name: np.bincount(geometry(name)[2], minlength=n_types) for name in names}
    layout = np.max(list(counts.values()), axis=0)
    first = np.concatenate([[0], np.cumsum(layout)[:-1]])
    slots = {}
    for name in names:
        types = geometry(name)[2]
        slots[name] = np.array([first[t] + np.sum(types[:a] == t) for a, t in enumerate(types)])
    return tuple(layout.tolist()), slots


def predicted(model: Model, case: str, basis: SplineBasis | None) -> dict[str, dict[str, np.ndarray]]:
    """Prediction for each geometry of a case, atoms in the order of the files."""
    names, fitting = frames_of(case), model.spec.fitting_net
    layout, slots = slots_of(names, len(model.type_map))
    n_slots = sum(layout)
    batch: dict[str, list[np.ndarray]] = {key: [] for key in ("center", "neighbor", "dr", "real", "fparam", "aparam")}
    for name in names:
        coord, box, types = geometry(name)
        pairs = truncate(pairs_within(model.rcut, coord, box), types, model.spec.descriptor)
        center, neighbor, dr = pairs.padded(1024, len(types))
        place = np.append(slots[name], n_slots)
        default = np.asarray(fitting.default_fparam or np.zeros(fitting.numb_fparam))
        aparam = np.zeros((n_slots, fitting.numb_aparam))
        aparam[slots[name]] = NUMBERS.get(f"{case}/{name}/aparam", 0.0)
        batch["center"].append(place[center])
        batch["neighbor"].append(place[neighbor])
        batch["dr"].append(dr)
        batch["real"].append(np.isin(np.arange(n_slots), slots[name]))
        batch["fparam"].append(NUMBERS.get(f"{case}/{name}/fparam", default))
        batch["aparam"].append(aparam)

    stacked = {key: jnp.asarray(np.stack(values)) for key, values in batch.items()}
    pairs = (stacked.pop(key) for key in ("center", "neighbor", "dr"))
    out = model.spec.predict(model.params["DeepPot"], *pairs, layout, basis, **stacked)
    return {
        name: {
            "energy": out["energy"][f],
            "force": out["force"][f][slots[name]],
            "virial": out["virial"][f],
            "atom_energy": out["atom_ener"][f][slots[name]],
        }
        for f, name in enumerate(names)
    }


def assert_close(found: dict[str, np.ndarray], case: str, name: str, tolerance: float, first: float = 1.0) -> None:
    """Errors are at most ``tolerance`` of the largest number; ``first`` times that for first derivatives."""
    for quantity in ("energy", "atom_energy", "force", "virial"):
        expected = NUMBERS[f"{case}/{name}/{quantity}"]
        allowed = tolerance * max(np.abs(expected).max(), 1e-3) * (first if quantity in ("force", "virial") else 1.0)
        np.testing.assert_allclose(found[quantity], expected, rtol=0, atol=allowed, err_msg=f"{case} {name} {quantity}")


def stored(case: str) -> list[str]:
    return [name for name in frames_of(case) if f"{case}/{name}/energy" in NUMBERS]


def test_the_stored_cases_are_all_there() -> None:
    assert len(CASES) == 55
    assert {name for case in CASES for name in stored(case)} == {*GEOMETRIES, "three"}


@pytest.mark.parametrize("cases", together(), ids="+".join)
def test_direct_path_gives_deepmd_numbers(models: dict[str, Model], cases: list[str]) -> None:
    for case in cases:
        found = predicted(models[case], case, None)
        for name in stored(case):
            assert_close(found[name], case, name, 2e-5 if is_single(models[case]) else 1e-10)


@pytest.mark.parametrize("cases", together(), ids="+".join)
def test_spline_path_gives_deepmd_numbers_within_its_error(models: dict[str, Model], cases: list[str]) -> None:
    for case in cases:
        model = models[case]
        descriptor, params = model.spec.descriptor, model.params["DeepPot"]["descriptor"]
        if re.fullmatch("relu6?|silut.*|custom_silu.*", descriptor.activation_function):
            with pytest.raises(diffff.InputError, match="no spline of up to"):
                with_path(model, evaluation="spline").basis(SHORTEST)
            continue
        basis = SplineBasis(256, spline_range(model.spec, SHORTEST), 0.1)
        assert descriptor.spline_error(params, model.type_map, basis) < 1e-10
        found = predicted(model, case, basis)
        for name in stored(case):
            # a slope of the spline is off by its error over the spacing
            assert_close(found[name], case, name, *((1e-4, 1.0) if is_single(model) else (1e-10, 1e3)))


# ---------------------------------------------------------------------- as a user calls it
@pytest.mark.parametrize("case", ["one_side", "truncated"])
def test_eval_of_frames_with_different_atoms(models: dict[str, Model], case: str) -> None:
    """Periodic geometries as the frames of one call, virtual atoms at their ends."""
    names = [name for name in GEOMETRIES if name != "nopbc"]
    n_atoms = max(len(geometry(name)[2]) for name in names)
    coords, boxes, types = np.zeros((3, n_atoms, 3)), np.zeros((3, 3, 3)), np.full((3, n_atoms), -1)
    for f, name in enumerate(names):
        coord, boxes[f], kinds = geometry(name)
        coords[f, : len(kinds)], types[f, : len(kinds)] = coord, kinds
    energy, force, virial, atom_energy, atom_virial = models[case].eval(coords, boxes, types, atomic=True)
    np.testing.assert_allclose(atom_virial.sum(axis=1), virial, rtol=0, atol=1e-12 * np.abs(virial).max())
    for f, name in enumerate(names):
        n = len(geometry(name)[2])
        assert not force[f, n:].any() and not atom_energy[f, n:].any() and not atom_virial[f, n:].any()
        found = {
            "energy": energy[f, 0],
            "force": force[f, :n],
            "virial": virial[f].reshape(3, 3),
            "atom_energy": atom_energy[f, :n, 0],
        }
        assert_close(found, case, name, 1e-8, first=100.0)


@pytest.mark.parametrize(
    ("case", "name"), [("one_side", "nopbc"), ("two_side_exclude_three", "three"), ("fparam_aparam", "small")]
)
@pytest.mark.parametrize("evaluation", ["direct", "auto"])
def test_eval_gives_deepmd_numbers(models: dict[str, Model], case: str, name: str, evaluation: str) -> None:
    coord, box, types = geometry(name)
    extra = {key: NUMBERS.get(f"{case}/{name}/{key}") for key in ("fparam", "aparam")}
    model = with_path(models[case], evaluation=evaluation)
    e, f, v, ae, _ = model.eval(coord, box, types, atomic=True, **extra)
    found = {"energy": e[0, 0], "force": f[0], "virial": v[0].reshape(3, 3), "atom_energy": ae[0, :, 0]}
    assert_close(found, case, name, *((1e-10, 1.0) if evaluation == "direct" else (1e-8, 100.0)))


# ---------------------------------------------------------------------- as a term
@pytest.mark.parametrize("name", ["small", "molecule"])
@pytest.mark.parametrize("path", ["direct", "spline"])
def test_contract_of_a_term(models: dict[str, Model], name: str, path: str) -> None:
    """Two-sided with excluded pairs; in a triclinic cell narrower than two cutoffs, and without a cell."""
    model = models["two_side_exclude"]
    coord, box, types = geometry("small")
    box = None if name == "molecule" else box + np.array([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [-0.6, 0.8, 0.0]])
    basis = None if path == "direct" else SplineBasis(96, spline_range(model.spec, 0.5), 0.1)
    check_term(
        bind(model.spec, types, basis),
        model.params["DeepPot"],
        coord * NM_PER_ANGSTROM,
        None if box is None else box * NM_PER_ANGSTROM,
        alike=[np.flatnonzero(types == t) for t in (0, 1)],
    )


def test_units_of_the_potential(models: dict[str, Model]) -> None:
    """nm and kJ/mol outside, Å and eV in `eval`."""
    model = with_path(models["one_side"], evaluation="direct")
    coord, box, types = geometry("small")
    energy, force, expected_virial = model.eval(coord, box, types)
    positions, cell = coord * NM_PER_ANGSTROM, box * NM_PER_ANGSTROM
    potential = model.potential(types)
    listed = neighbor_list(positions, cell, potential.cutoff)
    system = (model.params, positions, cell, listed)
    (found, forces), strain = jax.jit(lambda p, *x: (energy_and_forces(p, *x), virial(p, *x)))(potential, *system)
    np.testing.assert_allclose(found, energy[0, 0] * KJ_PER_MOL_PER_EV, rtol=1e-12)
    np.testing.assert_allclose(forces, force[0] * KJ_PER_MOL_PER_EV * ANGSTROM_PER_NM, rtol=0, atol=1e-9)
    expected = expected_virial[0].reshape(3, 3) * KJ_PER_MOL_PER_EV
    np.testing.assert_allclose(strain, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fparam_aparam", "default_fparam"])
def test_frame_and_atomic_parameters_are_the_potentials_own(models: dict[str, Model], case: str) -> None:
    """DeePMD-kit's energy, forces and virial, from a potential that was given the numbers once."""
    coord, box, types = geometry("small")
    model = with_path(models[case], evaluation="direct")
    extra = {key: NUMBERS.get(f"{case}/small/{key}") for key in ("fparam", "aparam")}
    positions, cell = coord * NM_PER_ANGSTROM, box * NM_PER_ANGSTROM
    potential = model.potential(types, **extra)
    system = (model.params, positions, cell, neighbor_list(positions, cell, potential.cutoff))
    (found, forces), strain = jax.jit(lambda p, *x: (energy_and_forces(p, *x), virial(p, *x)))(potential, *system)
    ours = {
        "energy": found / KJ_PER_MOL_PER_EV,
        "force": forces / KJ_PER_MOL_PER_EV / ANGSTROM_PER_NM,
        "virial": strain / KJ_PER_MOL_PER_EV,
        "atom_energy": potential.atomic_energies(*system) / KJ_PER_MOL_PER_EV,
    }
    assert_close({key: np.asarray(values) for key, values in ours.items()}, case, "small", 1e-10)


@pytest.mark.parametrize("case", ["two_side_exclude", "fparam_aparam"])
def test_blocks_change_nothing(models: dict[str, Model], case: str) -> None:
    """Energies, forces, virial, and the gradients of a loss of them with respect to weights, in blocks of few atoms."""
    model = models[case]
    coord, box, types = geometry("small")
    extra = {key: NUMBERS.get(f"{case}/small/{key}") for key in ("fparam", "aparam")}
    positions, cell = coord * NM_PER_ANGSTROM, box * NM_PER_ANGSTROM
    (whole,) = model.potential(types, SHORTEST, **extra).terms
    listed = neighbor_list(positions, cell, whole.cutoff)

    def loss(params: Any, term: DeepPot) -> tuple[jax.Array, Any]:
        found = energy_forces_virial(Potential(terms=(term,)), {"DeepPot": params}, positions, cell, listed)
        return sum((k + 1) * jnp.sum(jnp.sin(x)) for k, x in enumerate(found)), found

    of_loss = jax.jit(jax.grad(loss, has_aux=True))
    expected = of_loss(model.params["DeepPot"], whole)
    for block in (2, 4):  # 64 and 128 pairs at a time
        found = of_loss(model.params["DeepPot"], replace(whole, block=block))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(1.0, np.abs(b).max()))
        of_atoms = replace(whole, block=block).atomic_energies(model.params["DeepPot"], positions, cell, listed)
        np.testing.assert_allclose(np.sum(of_atoms), expected[1][0], rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True])
def test_a_large_box_of_copies(models: dict[str, Model], single: bool, monkeypatch) -> None:
    """More atoms of a type than a block holds: the energy of all copies, the forces and the virial of each."""
    monkeypatch.setattr(deep, "_WHOLE", BLOCK)
    model = models["one_side"]
    if single:
        model = Model(spec=model.spec.in_single_precision(), params=cast_params(model.params, np.float32))
    coord, box, types = geometry("pbc")
    n = int(np.ceil((2.2 * BLOCK / len(types)) ** (1 / 3)))
    grid = np.stack(np.meshgrid(*3 * [np.arange(n)], indexing="ij"), axis=-1).reshape(-1, 3)
    copies = (coord + (grid @ box)[:, None]).reshape(-1, 3)
    assert np.bincount(np.tile(types, n**3)).max() > BLOCK
    energy, force, of_virial = model.eval(copies, n * box, np.tile(types, n**3))
    one = model.eval(coord, box, types)
    tolerance = 3e-6 if single else 1e-12
    np.testing.assert_allclose(energy / n**3, one[0], rtol=tolerance)
    atol = tolerance * np.abs(one[1]).max()
    np.testing.assert_allclose(force.reshape(n**3, -1, 3), np.tile(one[1], (n**3, 1, 1)), rtol=0, atol=30 * atol)
    np.testing.assert_allclose(of_virial / n**3, one[2], rtol=0, atol=30 * tolerance * np.abs(one[2]).max())


def test_a_potential_that_cannot_be_made_is_refused(models: dict[str, Model]) -> None:
    _, _, types = geometry("small")
    both, plain = models["fparam_aparam"], models["one_side"]
    per_atom = np.zeros((len(types), 1))
    for model, given, options, message in (
        (both, types, {}, "this model needs fparam: 1 numbers for each frame"),
        (both, types, {"fparam": [0.0]}, "this model needs aparam: 1 numbers for each atom"),
        (both, types, {"fparam": [0.0, 1.0], "aparam": per_atom}, "fparam: 2 numbers are given, but the pot.* takes 1"),
        (both, types, {"fparam": [np.nan], "aparam": per_atom}, "fparam: not all values are finite"),
        (both, types, {"fparam": [0.0], "aparam": per_atom[1:]}, r"aparam: shape .* does not fit frames of shape"),
        (plain, types, {"fparam": [0.0]}, r"fparam is given, but this model has none \(fitting_net\.numb_fparam"),
        (plain, np.array(["O", "H"]), {}, "types: <U1 of shape .2,.; give an index into the type map per atom"),
        (plain, types[:0], {}, "there are no atoms: types is empty"),
        (plain, np.array([0, 7]), {}, r"types: atom 1 \(from 0\) has the type 7, which is none of this model"),
        (plain, np.array([0, -1]), {}, r"types: atom 1 \(from 0\) has the type -1"),
        (plain, types, {"shortest": 0.0}, "shortest is 0.0 Å; give a positive number"),
    ):
        with pytest.raises(InputError, match=message):
            model.potential(given, **options)


def test_a_pair_closer_than_the_splines_reach_poisons_the_energy(models: dict[str, Model]) -> None:
    model = models["one_side"]
    positions = np.array([[0.0, 0.0, 0.0], [0.04, 0.0, 0.0], [0.3, 0.0, 0.0]])
    potential = model.potential(np.array([0, 1, 1]), shortest=0.6)
    listed = neighbor_list(positions, None, potential.cutoff)
    energy = jax.jit(lambda x: potential.energy(model.params, x, None, listed))
    assert np.isnan(energy(positions))
    assert np.isfinite(energy(positions + np.array([[0.0], [0.03], [0.0]])))
