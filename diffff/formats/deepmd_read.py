"""From a serialised model of DeePMD-kit to a `DeepModel` and its parameters.

What differs between the file and the parameter tree:

    file                                                     here
    embeddings.networks[t_i + n_types t_j] (two-sided)       embeddings["O-H"], centre - neighbour
    davg, dstd (n_types, n_sel, 4), equal for all slots      (n_types, 4)
    out_bias (1, n_types, 1) + bias_atom_e (n_types, 1)      bias (n_types,)
    out_std                                                  none: energies are not scaled
    compress: tables of the embedding nets                   none: the nets themselves are in the file too
"""

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diffff import nn, spec
from diffff.descriptors.se_e2_a import SeE2A
from diffff.formats.model_file import read_tree
from diffff.formats.section import Section
from diffff.potentials.deep import DeepModel

Params = dict[str, Any]

logger = logging.getLogger("diffff")

# the last versions whose meaning is known, those of DeePMD-kit 3.2; older ones only lack keys
_VERSION = {"model": 2, "descriptor": 3, "fitting": 4, "collection": 1, "embedding": 2, "fitting_net": 1, "layer": 2}
_PRECISIONS = {
    "default": "default",
    "double": "float64",
    "float64": "float64",
    "single": "float32",
    "float32": "float32",
}
# keys that mean the same in a file and in a spec: those every file has, and those that older ones lack
_NET = ("neuron", "activation_function", "resnet_dt")
_DESCRIPTOR = (*_NET, "rcut", "rcut_smth", "axis_neuron", "type_one_side")
_DESCRIPTOR_LATER = ("trainable", "exclude_types", "env_protection", "set_davg_zero")
_FITTING_LATER = ("numb_fparam", "numb_aparam", "default_fparam")


def load_model(path: str | Path) -> tuple[DeepModel, Params]:
    """Reads a `.dp` or `.yaml` model file of DeePMD-kit or diffff.

    Args:
        path: The file: an energy model ("ener") with the descriptor "se_e2_a".

    Returns:
        The model and its parameters, the tree that `DeepModel.init` makes, with numpy arrays. Settings that are not in
        a model file (seeds, statistics) have their defaults.

    Raises:
        InputError: The file is broken, from a later version, or of a model that diffff does not compute.
    """
    file = Section(file=str(path), path="$", data=read_tree(path))
    root = file.at("model")
    root.check_only("type", "standard")
    root.check_version(_VERSION["model"], lowest=2)
    descriptor, fitting = root.at("descriptor"), root.at("fitting")
    _check_descriptor(descriptor)
    _check_fitting(fitting)
    model = _model(root, descriptor, fitting)
    params = {
        "descriptor": _descriptor_params(model, descriptor),
        "fitting": _fitting_params(model, fitting),
        "bias": _bias(root, fitting, len(model.type_map)),
    }
    return model, params


# ---------------------------------------------------------------------------------------------------------- settings
def _check_descriptor(descriptor: Section) -> None:
    descriptor.check_only("type", "se_e2_a")
    descriptor.check_version(_VERSION["descriptor"])
    descriptor.check_harmless({"spin": (None,)})
    if "env_mat" in descriptor.data:
        descriptor.at("env_mat").check_harmless({"use_exp_switch": (False,)})
    if descriptor.data.get("compress"):
        logger.info(
            "%s: a compressed model; its networks are used and the tables made from them are not", descriptor.file
        )


def _check_fitting(fitting: Section) -> None:
    fitting.check_only("type", "ener")
    fitting.check_version(_VERSION["fitting"])
    fitting.check_harmless(
        {
            "mixed_types": (False,),
            "dim_case_embd": (0,),
            "use_aparam_as_mask": (False,),
            "tot_ener_zero": (False,),
            "layer_name": (None,),
            "spin": (None,),
        }
    )


def _model(root: Section, descriptor: Section, fitting: Section) -> DeepModel:
    """The settings of all sections, validated as if they had been written in an input file."""
    rcond = fitting.data.get("rcond")
    section = {
        "type_map": root.need("type_map"),
        "atom_exclude_types": root.values("atom_exclude_types"),
        "pair_exclude_types": root.values("pair_exclude_types"),
        "preset_out_bias": _preset(root),
        "descriptor": {
            "type": "se_e2_a",
            "precision": _precision(descriptor),
            "sel": descriptor.values("sel"),
            **{key: descriptor.need(key) for key in _DESCRIPTOR},
            **{key: descriptor.data[key] for key in _DESCRIPTOR_LATER if descriptor.data.get(key) is not None},
        },
        "fitting_net": {
            "type": "ener",
            "precision": _precision(fitting),
            "rcond": root.data.get("rcond") if rcond is None else rcond,
            "atom_ener": [_number(x) for x in fitting.values("atom_ener")],
            "trainable": _trainable(fitting.data.get("trainable")),
            **{key: fitting.need(key) for key in _NET},
            **{key: fitting.data[key] for key in _FITTING_LATER if fitting.data.get(key) is not None},
        },
    }
    return spec.validate(DeepModel, section, where=f"{root.file}: model")


def _precision(section: Section) -> str:
    name = str(section.data.get("precision", "default")).lower()
    if name not in _PRECISIONS:
        raise section.error("precision", f'"{name}" is not supported by diffff; only float32 and float64 are')
    return _PRECISIONS[name]


def _number(value: Any) -> Any:
    """The number in [x]; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _preset(root: Section) -> dict[str, Any] | None:
    if not root.data.get("preset_out_bias"):
        return None
    preset = root.at("preset_out_bias")
    return {key: [_number(x) for x in preset.values(key)] for key in preset.data}


def _trainable(value: Any) -> Any:
    """One bool where all layers agree."""
    if value is None:
        return True
    return value[0] if isinstance(value, list) and value and all(x == value[0] for x in value) else value


# -------------------------------------------------------------------------------------------------------- parameters
def _descriptor_params(model: DeepModel, section: Section) -> Params:
    settings, names = model.descriptor, model.type_map
    n_types, n_sel = len(names), settings.n_sel
    statistics = {}
    for key in ("davg", "dstd"):
        slots = section.array(key, (n_types, n_sel, 4))
        if not (slots == slots[:, :1]).all():
            raise section.error(
                f"@variables.{key}", "differs between the slots of a type; diffff wants one row per type"
            )
        statistics[key] = slots[:, 0]
    if statistics["davg"][:, 1:].any():
        raise section.error("@variables.davg", "has an angular mean, so the energy would depend on the orientation")
    collection = section.at("embeddings")
    nets = _networks(collection, ndim=1 if settings.type_one_side else 2, n_types=n_types)
    silent = {pair for a, b in settings.exclude_types for pair in ((a, b), (b, a))}
    embeddings = {}
    for index, net in enumerate(nets):
        neighbor, center = (index, 0) if settings.type_one_side else (index // n_types, index % n_types)
        if net is None and (settings.type_one_side or (center, neighbor) not in silent):
            raise collection.error(f"networks[{index}]", "missing, though no exclude_types makes it needless")
        embeddings[settings.net_key(names[center], names[neighbor])] = _embedding(net, settings)
    return {**statistics, "embeddings": embeddings}


def _embedding(net: Section | None, settings: SeE2A) -> list[dict[str, np.ndarray]]:
    """An embedding net; zeros, as DeePMD-kit writes, for a needless one that a file leaves out."""
    shapes = list(pairwise((1, *settings.neuron)))
    if net is None:
        return [{"w": np.zeros(s, settings.dtype), "b": np.zeros(s[1], settings.dtype)} for s in shapes]
    net.check_version(_VERSION["embedding"])
    return _layers(net, shapes, settings.activation_function, settings.dtype)


def _fitting_params(model: DeepModel, section: Section) -> Params:
    settings, names = model.fitting_net, model.type_map
    n_in = model.descriptor.n_features + settings.numb_fparam + settings.numb_aparam
    shapes = list(pairwise((n_in, *settings.neuron, 1)))
    nets = {}
    for name, net in zip(names, _networks(section.at("nets"), ndim=1, n_types=len(names)), strict=True):
        if net is None:
            raise section.error("nets", f"the network of {name} is missing")
        net.check_version(_VERSION["fitting_net"])
        nets[name] = _layers(net, shapes, settings.activation_function, settings.dtype, linear_end=True)
    params: Params = {"nets": nets}
    for kind, number in (("fparam", settings.numb_fparam), ("aparam", settings.numb_aparam)):
        if number:
            params |= {f"{kind}_{key}": section.array(f"{kind}_{key}", (number,)) for key in ("avg", "inv_std")}
    return params


def _networks(collection: Section, *, ndim: int, n_types: int) -> list[Section | None]:
    collection.check_version(_VERSION["collection"])
    networks = collection.sections("networks")
    if collection.need("ndim") != ndim or len(networks) != n_types**ndim:
        raise collection.error("networks", f"{len(networks)} networks, but the model asks for {n_types**ndim}")
    return networks


def _layers(
    net: Section, shapes: list[tuple[int, int]], function: str, dtype: Any, *, linear_end: bool = False
) -> list[dict[str, np.ndarray]]:
    """The layers of a net; DeePMD-kit evaluates each by its own settings, so these must be those of the whole net."""
    layers = net.sections("layers")
    if len(layers) != len(shapes):
        raise net.error("layers", f"{len(layers)} layers, but the settings of the model ask for {len(shapes)}")
    made = []
    for layer, shape in zip(layers, shapes, strict=True):
        if layer is None:
            raise net.error("layers", "null among the layers; the file is incomplete")
        layer.check_version(_VERSION["layer"])
        linear = linear_end and layer is layers[-1]
        if _function(layer.data.get("activation_function")) != _function("none" if linear else function):
            raise layer.error("activation_function", f"differs from that of the net, {function}")
        if (linear or nn.has_skip(*shape)) and bool(layer.data.get("resnet")) == linear:
            raise layer.error("resnet", "hidden layers must be residual and the last one not; others are not supported")
        arrays = {"w": layer.array("w", shape, dtype), "b": layer.array("b", shape[1:], dtype)}
        if layer.has_array("idt"):
            arrays["idt"] = layer.array("idt", shape[1:], dtype)
        made.append(arrays)
    return made


def _function(name: Any) -> str:
    """One spelling per activation function."""
    text = str(name or "none").lower().replace("custom_silu", "silut")
    return {"linear": "none", "gelu_tf": "gelu", "silut": "silut:3.0"}.get(text, text)


def _bias(root: Section, fitting: Section, n_types: int) -> np.ndarray:
    """Energy of each type, eV: newer models keep it in out_bias, older and TensorFlow ones in bias_atom_e."""
    bias = np.zeros(n_types)
    if root.has_array("out_bias"):
        bias = bias + root.array("out_bias", (n_types,))
    if fitting.has_array("bias_atom_e"):
        bias = bias + fitting.array("bias_atom_e", (n_types,))
    return bias
