"""From a `DeepModel` and its parameters to a serialised model of DeePMD-kit 3.2, the mirror image of `deepmd_read`."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import diffff
from diffff import nn, spec
from diffff.descriptors.se_e2_a import SeE2A
from diffff.fitting.energy import EnergyFitting
from diffff.formats.model_file import Tree, write_tree
from diffff.potentials.deep import DeepModel

Params = Mapping[str, Any]

_OWN_KEYS = frozenset(["sel_overflow", "evaluation", "spline_tolerance"])  # of the descriptor, unknown to DeePMD-kit


def save_model(
    path: str | Path,
    model: DeepModel,
    params: Params,
    *,
    min_nbor_dist: float | None = None,
    model_def_script: Mapping[str, Any] | None = None,
) -> None:
    """Writes a `.dp` or `.yaml` file that DeePMD-kit 3.2 loads.

    The energy bias goes to bias_atom_e, since `dp compress` loses out_bias; that of a net in single precision, which
    would round it, and of a model with types without energy goes to out_bias. out_std is 1: DeePMD-kit's TensorFlow
    backend alone multiplies by it.

    Args:
        path: The file to write.
        model: The model; its `sel` must be numbers.
        params: Its parameters, as `DeepModel.init` makes them.
        min_nbor_dist: Smallest distance in the training data, Å, which `dp compress` wants to know.
        model_def_script: The model section of the input file; by default `model` with all defaults.

    Raises:
        InputError: The file cannot be written.
    """
    script = spec.completed(model) if model_def_script is None else dict(model_def_script)
    if isinstance(script.get("descriptor"), Mapping):
        script["descriptor"] = {k: v for k, v in script["descriptor"].items() if k not in _OWN_KEYS}
    tree: Tree = {
        "software": "diffff",
        "version": diffff.__version__,
        "time": str(datetime.now(tz=timezone.utc)),  # noqa: UP017
        "backend": "diffff",
        "model": _model(model, params),
        "model_def_script": script,
    }
    if min_nbor_dist is not None:
        tree["@variables"] = {"min_nbor_dist": np.array(min_nbor_dist, np.float64)}
    write_tree(path, tree)


def _model(model: DeepModel, params: Params) -> Tree:
    n_types = len(model.type_map)
    preset, bias = model.preset_out_bias, np.asarray(params["bias"], np.float64)
    outside = _precision(model.fitting_net) == "float32" or bool(model.atom_exclude_types)
    return {
        "@class": "Model",
        "type": "standard",
        "@version": 2,
        "type_map": list(model.type_map),
        "atom_exclude_types": list(model.atom_exclude_types),
        "pair_exclude_types": [list(pair) for pair in model.pair_exclude_types],
        "rcond": model.fitting_net.rcond,
        "preset_out_bias": preset and {"energy": [None if x is None else [x] for x in preset.energy]},
        "descriptor": _descriptor(model.descriptor, params["descriptor"], model.type_map),
        "fitting": _fitting(model, params["fitting"], np.zeros_like(bias) if outside else bias),
        "@variables": {
            "out_bias": (bias if outside else np.zeros_like(bias)).reshape(1, n_types, 1),
            "out_std": np.ones((1, n_types, 1)),
        },
    }


def _descriptor(settings: SeE2A, params: Params, type_map: Sequence[str]) -> Tree:
    precision, n_types = _precision(settings), len(type_map)
    centers = type_map[:1] if settings.type_one_side else type_map
    net = {"@class": "EmbeddingNetwork", "@version": 2, "in_dim": 1, **_net_settings(settings), "bias": True}
    networks = []
    for neighbor in type_map:  # the centre runs fastest
        for center in centers:
            layers = params["embeddings"][settings.net_key(center, neighbor)]
            trainable = [settings.trainable] * len(layers)
            networks.append({**net, "layers": _layers(layers, settings.activation_function, precision, trainable)})
    slots = (n_types, settings.n_sel, 4)
    return {
        "@class": "Descriptor",
        "type": "se_e2_a",
        "@version": 2,
        "rcut": settings.rcut,
        "rcut_smth": settings.rcut_smth,
        "sel": list(settings.slots),
        **_net_settings(settings),
        "axis_neuron": settings.axis_neuron,
        "trainable": settings.trainable,
        "type_one_side": settings.type_one_side,
        "exclude_types": [list(pair) for pair in settings.exclude_types],
        "env_protection": settings.env_protection,
        "set_davg_zero": settings.set_davg_zero,
        "spin": None,
        "env_mat": {
            "rcut": settings.rcut,
            "rcut_smth": settings.rcut_smth,
            "protection": settings.env_protection,
            "use_exp_switch": False,
        },
        "embeddings": _collection("embedding_network", 1 if settings.type_one_side else 2, n_types, networks),
        "@variables": {
            key: np.broadcast_to(np.asarray(params[key], precision)[:, None], slots).copy() for key in ("davg", "dstd")
        },
        "type_map": list(type_map),
    }


def _fitting(model: DeepModel, params: Params, bias: np.ndarray) -> Tree:
    settings, n_types = model.fitting_net, len(model.type_map)
    n_in = model.descriptor.n_features + settings.numb_fparam + settings.numb_aparam
    trainable = settings.trainable
    trainable = [trainable] * (len(settings.neuron) + 1) if isinstance(trainable, bool) else list(trainable)
    precision, function = _precision(settings), settings.activation_function
    net = {"@class": "FittingNetwork", "@version": 1, "in_dim": n_in, "out_dim": 1, **_net_settings(settings)}
    networks = []
    for name in model.type_map:
        layers = _layers(params["nets"][name], function, precision, trainable, linear_end=True)
        networks.append({**net, "bias_out": True, "layers": layers})
    scales = [f"{kind}_{key}" for kind in ("fparam", "aparam") for key in ("avg", "inv_std")]
    return {
        "@class": "Fitting",
        "type": "ener",
        "@version": 4,
        "var_name": "energy",
        "ntypes": n_types,
        "dim_descrpt": model.descriptor.n_features,
        "dim_out": 1,
        **_net_settings(settings),
        "numb_fparam": settings.numb_fparam,
        "numb_aparam": settings.numb_aparam,
        "dim_case_embd": 0,
        "default_fparam": settings.default_fparam and list(settings.default_fparam),
        "rcond": settings.rcond,
        "mixed_types": False,
        "exclude_types": list(model.atom_exclude_types),
        "nets": _collection("fitting_network", 1, n_types, networks),
        "@variables": {
            "bias_atom_e": bias.reshape(n_types, 1),
            "case_embd": None,
            **{key: np.asarray(params[key], precision) if key in params else None for key in scales},
        },
        "type_map": list(model.type_map),
        "tot_ener_zero": False,
        "trainable": trainable,
        "atom_ener": list(settings.atom_ener),
        "layer_name": None,
        "use_aparam_as_mask": False,
        "spin": None,
    }


def _net_settings(settings: SeE2A | EnergyFitting) -> Tree:
    return {
        "neuron": list(settings.neuron),
        "activation_function": settings.activation_function,
        "resnet_dt": settings.resnet_dt,
        "precision": _precision(settings),
    }


def _precision(settings: SeE2A | EnergyFitting) -> str:
    return "float32" if settings.precision == "float32" else "float64"


def _collection(kind: str, ndim: int, n_types: int, networks: list[Tree]) -> Tree:
    return {
        "@class": "NetworkCollection",
        "@version": 1,
        "ndim": ndim,
        "ntypes": n_types,
        "network_type": kind,
        "networks": networks,
    }


def _layers(
    layers: Sequence[nn.Layer], function: str, precision: str, trainable: Sequence[bool], *, linear_end: bool = False
) -> list[Tree]:
    made = []
    for layer, train in zip(layers, trainable, strict=True):
        linear = linear_end and layer is layers[-1]
        made.append(
            {
                "@class": "Layer",
                "@version": 2,
                "bias": True,
                "use_timestep": "idt" in layer,
                "activation_function": "none" if linear else function,
                "resnet": not linear,
                "precision": precision,
                "trainable": train,
                "@variables": {
                    key: np.asarray(layer[key], precision) if key in layer else None for key in ("w", "b", "idt")
                },
            }
        )
    return made
