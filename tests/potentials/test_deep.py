"""Deep Potentials against DeePMD-kit, option by option, and against their own derivatives."""

import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffff
from diffff.model import Model
from diffff.neighbors import neighbor_list
from diffff.potentials.base import energy_and_forces, virial
from diffff.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV

REFERENCES = Path(__file__).parent.parent / "references" / "deepmd"


def reference_numbers() -> dict[str, np.ndarray]:
    with np.load(REFERENCES / "references.npz", allow_pickle=False) as file:
        return dict(file)


NUMBERS = reference_numbers()
CASES = sorted({tuple(key.split("/")[:2]) for key in NUMBERS if not key.startswith("geometry/")})


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


def evaluated(model: Model, case: str, name: str) -> dict[str, np.ndarray]:
    coord, box, types = geometry(name)
    extra = {key: NUMBERS.get(f"{case}/{name}/{key}") for key in ("fparam", "aparam")}
    e, f, v, ae, av = model.eval(coord, box, types, atomic=True, **extra)
    return {
        "energy": e[0, 0],
        "force": f[0],
        "virial": v[0].reshape(3, 3),
        "atom_energy": ae[0, :, 0],
        "atom_virial": av,
    }


def assert_close(found: dict[str, np.ndarray], case: str, name: str, tolerance: float) -> None:
    for quantity in ("energy", "force", "virial", "atom_energy"):
        expected = NUMBERS[f"{case}/{name}/{quantity}"]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            found[quantity], expected, rtol=0, atol=tolerance * max(scale, 1e-3), err_msg=f"{case} {name} {quantity}"
        )


@pytest.mark.parametrize(("case", "name"), CASES)
def test_direct_path_gives_deepmd_numbers(models: dict[str, Model], case: str, name: str) -> None:
    model = models[case]
    single = "float32" in (model.spec.descriptor.precision, model.spec.fitting_net.precision)
    assert_close(evaluated(with_path(model, evaluation="direct"), case, name), case, name, 2e-5 if single else 1e-10)


@pytest.mark.parametrize(("case", "name"), CASES)
def test_spline_path_stays_within_its_tolerance(models: dict[str, Model], case: str, name: str) -> None:
    model = models[case]
    single = "float32" in (model.spec.descriptor.precision, model.spec.fitting_net.precision)
    smooth = not re.fullmatch("relu6?|silut.*|custom_silu.*", model.spec.descriptor.activation_function)
    splines = with_path(model, evaluation="spline", spline_tolerance=None if single else 1e-10)
    if not smooth:
        with pytest.raises(diffff.InputError, match="no spline of up to"):
            evaluated(splines, case, name)
    else:
        assert_close(evaluated(splines, case, name), case, name, 1e-4 if single else 1e-8)
