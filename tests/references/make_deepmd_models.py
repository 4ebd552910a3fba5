"""Small se_e2_a models of DeePMD-kit, one for every option, with the numbers DeePMD-kit computes from them.

Run in an environment with DeePMD-kit 3.2 and TensorFlow (the tests need neither, only the files written here):

    python tests/references/make_deepmd_models.py

Energies and per-atom energies come from DeePMD-kit's numpy backend. That backend has no derivatives, so forces and
virials come from its TensorFlow-2 backend, which runs the same model code under automatic differentiation; the script
stops when the two disagree in the energy, or the force with a difference quotient of the numpy energies.

Written to tests/references/deepmd/:

    models.zip          <case>.dp, the model of a case, as DeePMD-kit writes it, and two_side.yaml, its other format
    references.npz      all inputs and outputs (no pickles)

Weights are rounded to multiples of 1/4096 so that the archive stays small. Two files are special: from_tensorflow.dp
went through DeePMD-kit's TensorFlow backend; compressed.dp also holds the tables of a compressed model (its numbers
here are those of the networks, not of the tables). Every out_std is random, which changes no number: TensorFlow alone
uses it.

Entries of references.npz:

    geometry/<geom>/coord    (n_atoms, 3)   Å, not always wrapped into the cell
    geometry/<geom>/box      (3, 3)         Å, rows are the lattice vectors; missing when there is no cell
    geometry/<geom>/types    (n_atoms,)     indices into the model's type_map
    <case>/<geom>/energy       ()             eV
    <case>/<geom>/force        (n_atoms, 3)   eV/Å
    <case>/<geom>/virial       (3, 3)         eV
    <case>/<geom>/atom_energy  (n_atoms,)     eV, their sum is the energy
    <case>/<geom>/fparam       (numb_fparam,)           only where the model takes it and none is left to its default
    <case>/<geom>/aparam       (n_atoms, numb_aparam)   only where the model takes it

Geometries (cutoff 4 Å): pbc, orthorhombic, more than two cutoffs long, some atoms outside the cell; small, shorter
than two cutoffs in each direction and than one cutoff in one, so that atoms see their own images; tri, triclinic;
nopbc, no cell, one atom alone; three, three elements, triclinic.
"""

import copy
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("DP_INFER_BATCH_SIZE", "4096")

import numpy as np
from deepmd._vendors import ndtensorflow
from deepmd.dpmodel.model.base_model import BaseModel
from deepmd.dpmodel.model.model import get_model
from deepmd.dpmodel.utils.nlist import extend_input_and_build_neighbor_list
from deepmd.dpmodel.utils.serialization import load_dp_model, save_dp_model
from deepmd.infer import DeepPot

# GELU's constant sqrt(2/pi) is float32 in the TensorFlow-2 backend of DeePMD-kit 3.2; a float64 pi makes it float64
ndtensorflow.pi = ndtensorflow.asarray(np.pi, dtype=ndtensorflow.float64)

HERE = Path(__file__).parent / "deepmd"
RCUT = 4.0
ALL = ("pbc", "small", "tri", "nopbc")
TWO = ("small", "tri")

DESCRIPTOR = {
    "type": "se_e2_a",
    "rcut": RCUT,
    "rcut_smth": 1.0,
    "sel": [14, 28],
    "neuron": [3, 6, 12],
    "axis_neuron": 3,
    "resnet_dt": False,
    "type_one_side": True,
    "precision": "float64",
    "seed": 1,
}
FITTING = {"type": "ener", "neuron": [7, 7, 7], "resnet_dt": True, "precision": "float64", "seed": 2}
THREE = {"type_map": ["O", "H", "Na"], "descriptor": {"sel": [12, 20, 10]}}

ACTIVATIONS = ["relu", "relu6", "softplus", "sigmoid", "gelu", "gelu_tf", "silu", "linear", "none"]
ACTIVATIONS += ["silut", "custom_silu", "silut:2.0", "custom_silu:0.4"]

# case -> (geometries, changes to the standard model section, keys that the script itself handles)
CASES = {
    "one_side": (ALL, {}, {}),
    "two_side": (ALL, {"descriptor": {"type_one_side": False}}, {}),
    "one_side_three": (("three",), THREE, {}),
    "two_side_three": (("three",), {**THREE, "descriptor": {"sel": [12, 20, 10], "type_one_side": False}}, {}),
    "one_side_exclude": (ALL, {"descriptor": {"exclude_types": [[0, 0], [1, 0]]}}, {}),
    "two_side_exclude": (ALL, {"descriptor": {"exclude_types": [[0, 1]], "type_one_side": False}}, {}),
    "two_side_exclude_sigmoid": (
        TWO,
        {"descriptor": {"exclude_types": [[0, 1]], "type_one_side": False, "activation_function": "sigmoid"}},
        {},
    ),
    "two_side_exclude_three": (
        ("three",),
        {**THREE, "descriptor": {"sel": [12, 20, 10], "type_one_side": False, "exclude_types": [[2, 2], [0, 2]]}},
        {},
    ),
    "env_protection": (ALL, {"descriptor": {"env_protection": 0.3}}, {}),
    "set_davg_zero": (TWO, {"descriptor": {"set_davg_zero": True}}, {"davg_zero": True}),
    "descriptor_resnet_dt": (TWO, {"descriptor": {"resnet_dt": True}}, {}),
    "neuron_equal": (TWO, {"descriptor": {"neuron": [6, 6, 6], "resnet_dt": True}}, {}),
    "neuron_irregular": (TWO, {"descriptor": {"neuron": [5, 8, 11], "resnet_dt": True}}, {}),
    "neuron_mixed": (TWO, {"descriptor": {"neuron": [2, 4, 4, 9], "resnet_dt": True, "type_one_side": False}}, {}),
    "axis_1": (TWO, {"descriptor": {"axis_neuron": 1}}, {}),
    "axis_all": (TWO, {"descriptor": {"axis_neuron": 12}}, {}),
    "fitting_no_dt": (TWO, {"fitting_net": {"resnet_dt": False}}, {}),
    "fitting_irregular": (TWO, {"fitting_net": {"neuron": [36, 5, 10, 10]}}, {}),
    "fitting_one_layer": (TWO, {"fitting_net": {"neuron": [9]}}, {}),
    "fitting_gelu": (TWO, {"fitting_net": {"activation_function": "gelu"}}, {}),
    "trainable": (
        TWO,
        {"descriptor": {"trainable": False}, "fitting_net": {"trainable": [True, False, True, False]}},
        {},
    ),
    "fparam": (TWO, {"fitting_net": {"numb_fparam": 2}}, {"fparam": True}),
    "default_fparam": (TWO, {"fitting_net": {"numb_fparam": 2, "default_fparam": [0.4, -0.7]}}, {}),
    "aparam": (TWO, {"fitting_net": {"numb_aparam": 3}}, {"aparam": True}),
    "fparam_aparam": (ALL, {"fitting_net": {"numb_fparam": 1, "numb_aparam": 1}}, {"fparam": True, "aparam": True}),
    "atom_ener": (
        TWO,
        {"descriptor": {"set_davg_zero": True}, "fitting_net": {"atom_ener": [-2.5, -0.7]}},
        {"davg_zero": True},
    ),
    "atom_ener_null": (TWO, {"fitting_net": {"atom_ener": [None, -0.7]}}, {}),
    "atom_ener_fparam": (TWO, {"fitting_net": {"atom_ener": [-2.5, -0.7], "numb_fparam": 1}}, {"fparam": True}),
    "pair_exclude": (ALL, {"pair_exclude_types": [[0, 1]]}, {}),
    "pair_exclude_two_side": (TWO, {"pair_exclude_types": [[1, 1]], "descriptor": {"type_one_side": False}}, {}),
    "pair_exclude_both": (
        ("three",),
        {
            **THREE,
            "pair_exclude_types": [[2, 2]],
            "descriptor": {"sel": [12, 20, 10], "exclude_types": [[0, 0], [1, 2]]},
        },
        {},
    ),
    "atom_exclude": (ALL, {"atom_exclude_types": [1]}, {}),
    "preset_out_bias": (TWO, {"preset_out_bias": {"energy": [None, -3.0]}}, {}),
    "bias_both": (ALL, {}, {"bias_atom_e": True}),
    "bias_fitting_only": (TWO, {}, {"bias_atom_e": True, "no_out_bias": True}),
    "float32": (ALL, {"descriptor": {"precision": "float32"}, "fitting_net": {"precision": "float32"}}, {}),
    "float32_descriptor": (TWO, {"descriptor": {"precision": "float32"}}, {}),
    "truncated": (ALL, {"descriptor": {"sel": [4, 6]}}, {"truncated": True}),
    "truncated_two_side": (TWO, {"descriptor": {"sel": [3, 9], "type_one_side": False}}, {"truncated": True}),
    "compressed": (TWO, {"descriptor": {"neuron": [2, 4], "axis_neuron": 2}}, {"compress": True}),
    "from_tensorflow": (TWO, {}, {"tensorflow": True}),
    "isolated_padding": (("nopbc",), {"descriptor": {"sel": [40, 60]}}, {}),
}
CASES |= {
    "activation_" + name.replace(":", "_"): (
        ("tri",),
        {"descriptor": {"activation_function": name}, "fitting_net": {"activation_function": name}},
        {},
    )
    for name in ACTIVATIONS
}


def water(rng: np.random.Generator, box: np.ndarray, n_waters: int) -> np.ndarray:
    """Random rigid waters in a cell, atoms of different molecules kept apart: 1.7 Å at first, less after many tries."""
    placed: list[np.ndarray] = []
    shifts = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]) @ box
    nearest = 1.7
    while len(placed) < n_waters:
        nearest *= 0.9995
        u, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        molecule = rng.random(3) @ box + np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]) @ u
        molecule += rng.normal(scale=0.05, size=(3, 3))
        others = np.reshape(placed, (-1, 3))
        gap = np.linalg.norm(molecule[:, None, None] - others[None, :, None] - shifts, axis=-1)
        if gap.size == 0 or gap.min() > nearest:
            placed.append(molecule)
    return np.concatenate(placed)


def geometries() -> dict[str, dict[str, np.ndarray]]:
    """The inputs every case shares."""
    rng = np.random.default_rng(20240501)
    boxes = {
        "pbc": np.diag([8.2, 8.4, 8.9]),
        "small": np.diag([3.8, 4.7, 5.4]),
        "tri": np.array([[7.0, 0.0, 0.0], [2.1, 6.2, 0.0], [-1.3, 1.7, 5.9]]),
        "nopbc": np.diag([6.4, 6.4, 6.4]),
        "three": np.array([[6.6, 0.3, -0.2], [-1.9, 6.9, 0.1], [1.1, 0.6, 6.3]]),
    }
    waters = {"pbc": 8, "small": 3, "tri": 7, "nopbc": 6, "three": 6}
    out = {}
    for name, box in boxes.items():
        coord = water(rng, box, waters[name])
        types = np.tile([0, 1, 1], waters[name])
        order = rng.permutation(len(types))
        coord, types = coord[order], types[order]
        if name == "three":
            types[:4] = 2
        if name == "nopbc":
            coord[3] += [0.0, 30.0, 0.0]
        elif name != "small":
            coord[::5] += np.array([2, -1, 1]) @ box
        out[name] = {"coord": coord, "types": types}
        if name != "nopbc":
            out[name]["box"] = box
    return out


def section(changes: dict) -> dict:
    """The model section of an input.json: the standard one with a case's changes."""
    model = {"type_map": ["O", "H"], "descriptor": DESCRIPTOR, "fitting_net": FITTING}
    for key, value in changes.items():
        model[key] = {**model[key], **value} if key in ("descriptor", "fitting_net") else value
    return copy.deepcopy(model)


def serialised(name: str, changes: dict, extra: dict) -> dict:
    """The whole file of a case as a tree: DeePMD-kit's own, with statistics and biases that are not trivial."""
    definition = section(changes)
    tree = rounded(get_model(copy.deepcopy(definition)).serialize())
    rng = np.random.default_rng(sum(map(ord, name)))
    n_types = len(definition["type_map"])
    descriptor, fitting = tree["descriptor"], tree["fitting"]
    stored = descriptor["@variables"]["davg"].dtype
    davg = np.zeros_like(descriptor["@variables"]["davg"])
    if not extra.get("davg_zero"):
        davg[:, :, 0] = rng.uniform(0.05, 0.15, size=(n_types, 1))
    radial, angular = rng.uniform(0.08, 0.2, size=(2, n_types, 1))
    dstd = np.stack([np.broadcast_to(x, davg.shape[:2]) for x in (radial, angular, angular, angular)], axis=-1)
    descriptor["@variables"] = {"davg": davg.astype(stored), "dstd": dstd.astype(stored)}
    if not extra.get("no_out_bias"):
        tree["@variables"]["out_bias"] = rng.normal(scale=3.0, size=(1, n_types, 1))
    tree["@variables"]["out_std"] = rng.uniform(0.5, 1.5, size=(1, n_types, 1))
    if extra.get("bias_atom_e"):
        fitting["@variables"]["bias_atom_e"] = rng.normal(scale=5.0, size=(n_types, 1))
    for kind in ("fparam", "aparam"):
        number = fitting[f"numb_{kind}"]
        if number:
            fitting["@variables"][f"{kind}_avg"] = rng.normal(size=number)
            fitting["@variables"][f"{kind}_inv_std"] = rng.uniform(0.5, 2.0, size=number)
    tree["preset_out_bias"] = definition.get("preset_out_bias")
    return {
        "backend": "dpmodel",
        "model": tree,
        "model_def_script": definition,
        "@variables": {"min_nbor_dist": np.array(0.9)},
    }


def rounded(node: object) -> object:
    """The same tree with every array rounded to multiples of 1/4096."""
    if isinstance(node, dict):
        return {key: rounded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [rounded(value) for value in node]
    return np.round(node * 4096) / 4096 if isinstance(node, np.ndarray) else node


def through_tensorflow(path: Path) -> None:
    """Rewrite a model file by way of a TensorFlow graph (other processes: that backend ends eager execution)."""
    graph = path.with_suffix(".pb")
    for source, target in ((path, graph), (graph, path)):
        subprocess.run([sys.executable, "-m", "deepmd", "convert-backend", str(source), str(target)], check=True)


def compress(path: Path) -> None:
    """Add coarse tables to a model file."""
    tree = load_dp_model(str(path))
    model = BaseModel.deserialize(tree["model"])
    model.min_nbor_dist = 0.9
    model.enable_compression(table_extrapolate=2.0, table_stride_1=0.5, table_stride_2=2.0)
    save_dp_model(str(path), {**tree, "model": model.serialize()})


def inputs(geometry: dict, tree: dict, extra: dict) -> dict[str, np.ndarray]:
    """Frame and atomic parameters of one evaluation, for models that take them."""
    rng = np.random.default_rng(len(geometry["types"]))
    fitting = tree["model"]["fitting"]
    out = {}
    if extra.get("fparam"):
        out["fparam"] = rng.normal(size=fitting["numb_fparam"])
    if extra.get("aparam"):
        out["aparam"] = rng.normal(size=(len(geometry["types"]), fitting["numb_aparam"]))
    return out


def evaluate(path: Path, geometry: dict, parameters: dict) -> dict[str, np.ndarray]:
    """Energies from the numpy backend, force and virial from the TensorFlow-2 backend."""
    from deepmd.tf2.common import to_tensorflow_array
    from deepmd.tf2.model.base_model import BaseModel as Tf2Model

    coord, types, box = geometry["coord"], geometry["types"], geometry.get("box")
    box = None if box is None else box[None]
    optional = {key: value[None] for key, value in parameters.items()}
    energy, _, _, atom_energy, _ = DeepPot(str(path)).eval(
        coord[None], None if box is None else box.reshape(1, 9), types, atomic=True, **optional
    )
    single = "float32" in path.name
    differentiable = Tf2Model.deserialize(load_dp_model(str(path))["model"])
    result = differentiable.call(
        to_tensorflow_array(coord[None]),
        to_tensorflow_array(types[None].astype(np.int32)),
        box=to_tensorflow_array(box),
        **{key: to_tensorflow_array(value) for key, value in optional.items()},
    )
    result = {key: None if value is None else np.asarray(value.unwrap()) for key, value in result.items()}
    np.testing.assert_allclose(result["energy"].reshape(-1), energy.reshape(-1), rtol=1e-5 if single else 1e-12)
    out = {
        "energy": energy.reshape(()),
        "force": result["force"].reshape(-1, 3),
        "virial": result["virial"].reshape(3, 3),
        "atom_energy": atom_energy.reshape(-1),
    }
    if not all(np.isfinite(value).all() for value in out.values()):
        raise SystemExit(f"{path.name}: not finite")
    return out


def check_force(path: Path, geometry: dict, parameters: dict, force: np.ndarray) -> None:
    """Compare one force component with a central difference of the numpy backend."""
    optional = {key: value[None] for key, value in parameters.items()}
    box = geometry.get("box")
    model = DeepPot(str(path))
    h = 1e-4
    energies = []
    for step in (h, -h):
        coord = geometry["coord"].copy()
        coord[1, 2] += step
        cell = None if box is None else box.reshape(1, 9)
        energies.append(float(model.eval(coord[None], cell, geometry["types"], **optional)[0].item()))
    np.testing.assert_allclose(-(energies[0] - energies[1]) / (2 * h), force[1, 2], rtol=1e-4, atol=1e-6)


def most_neighbours(path: Path, geometry: dict) -> np.ndarray:
    """Largest number of neighbours per type, counted with a list long enough for all."""
    n_types = len(BaseModel.deserialize(load_dp_model(str(path))["model"]).get_type_map())
    box = geometry.get("box")
    _, types, _, nlist = extend_input_and_build_neighbor_list(
        geometry["coord"][None],
        geometry["types"][None],
        RCUT,
        [300],
        mixed_types=True,
        box=None if box is None else box[None],
    )
    kinds = np.where(nlist >= 0, np.take_along_axis(types, nlist.reshape(1, -1).clip(0), 1).reshape(nlist.shape), -1)
    return np.array([(kinds == t).sum(-1).max() for t in range(n_types)])


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    """A compressed zip (an .npz is one) whose bytes depend on the members only, not on the time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=9)


def cases(folder: Path) -> dict[str, np.ndarray]:
    """Write the model of every case to a folder; return all numbers."""
    shapes = geometries()
    arrays = {f"geometry/{name}/{key}": value for name, geometry in shapes.items() for key, value in geometry.items()}
    for name, (names, changes, extra) in CASES.items():
        tree = serialised(name, changes, extra)
        path = folder / f"{name}.dp"
        save_dp_model(str(path), tree)
        if extra.get("tensorflow"):
            through_tensorflow(path)
        for shape in names:
            over = most_neighbours(path, shapes[shape]) > tree["model"]["descriptor"]["sel"]
            if over.any() != bool(extra.get("truncated")):
                raise SystemExit(f"{name}/{shape}: {most_neighbours(path, shapes[shape])} neighbours")
            parameters = inputs(shapes[shape], tree, extra)
            outputs = evaluate(path, shapes[shape], parameters)
            if not name.startswith("float32"):
                check_force(path, shapes[shape], parameters, outputs["force"])
            arrays |= {f"{name}/{shape}/{key}": value for key, value in (outputs | parameters).items()}
            print(
                f"{name}/{shape}: {outputs['energy']:.6f} eV, force up to {abs(outputs['force']).max():.3f}", flush=True
            )
        if extra.get("compress"):
            compress(path)
    save_dp_model(str(folder / "two_side.yaml"), serialised("two_side", *CASES["two_side"][1:]))
    return arrays


def main() -> None:
    """Write the two archives."""
    HERE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_zip(HERE / "references.npz", {f"{name}.npy": npy(array) for name, array in cases(Path(folder)).items()})
        files = sorted(path for path in Path(folder).iterdir() if path.suffix in (".dp", ".yaml"))
        write_zip(HERE / "models.zip", {path.name: path.read_bytes() for path in files})


if __name__ == "__main__":
    main()
