"""Products with short factors in the steps of a training."""

import json
import re
import signal

import jax
import numpy as np
import pytest

from diffff import tree
from diffff.errors import InputError
from diffff.train import checkpoint as ckpt
from diffff.train import loop
from diffff.train.config import read_input
from diffff.train.loss import EnergyLoss
from diffff.train.progress import Progress
from diffff.train.step import batch_loss, predict_batch
from tests.train import small

SINGLE = {"model.descriptor.precision": "float32", "model.fitting_net.precision": "float32"}
SHORT = {"training.mixed_precision": {"output_prec": "float32", "compute_prec": "bfloat16"}}
LOSS = EnergyLoss(start_pref_e=1.0, limit_pref_e=1.0, start_pref_f=3.0, limit_pref_f=3.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    small.write_system(folder / "water", (5,), 2)
    return {"training.training_data.systems": [str(folder / "water")], **SINGLE}


@pytest.fixture(scope="module")
def problem(data, tmp_path_factory):
    return small.problem_of(tmp_path_factory.mktemp("problem"), {**data, "model.fitting_net.neuron": [24, 24]})


@pytest.fixture(scope="module")
def batch(problem):
    group, indices = problem.train.locate(0, np.arange(3))
    return group.take(indices)


def gradient(problem, batch, factors):
    return jax.jit(jax.grad(lambda p: batch_loss(problem.model, LOSS, p, batch, None, 1.0, None, factors)[0]))


def products(problem, batch, factors):
    """The products in the gradient of the loss: whether with weights of a hidden layer of a fitting net or to their
    gradient, the type of the factors, and the precision that is asked for."""
    text = gradient(problem, batch, factors).lower(problem.params).as_text()
    for line in text.splitlines():
        if "stablehlo.dot_general" in line:
            tensors = re.findall(r"tensor<([\dx]*)x([a-z]+\d+)>", line.rpartition(" : ")[2])
            asked = re.search(r"precision = \[(\w+)", line)
            hidden = any(shape in ("8x24", "24x8", "24x24") for shape, _ in tensors)
            yield hidden, tensors[0][1], asked[1] if asked else "DEFAULT"


@pytest.mark.parametrize(
    ("factors", "kind"), [("float32", "f32 HIGHEST"), ("tensorfloat32", "f32 HIGH"), ("bfloat16", "bf16 DEFAULT")]
)
def test_no_product_of_nets_in_float32_is_left_to_the_device(problem, batch, factors, kind):
    """NVIDIA's GPUs would round the factors to TF32; only the hidden layers of the fitting nets may have it so."""
    found = {(hidden, f"{dtype} {asked}") for hidden, dtype, asked in products(problem, batch, factors)}
    assert {name for hidden, name in found if hidden} == {kind}
    assert {name for hidden, name in found if not hidden and not name.startswith("f64")} == {"f32 HIGHEST"}


@pytest.mark.parametrize("quantity", ["energy", "force"])
def test_predictions_with_short_factors_differ_by_their_rounding(problem, batch, quantity):
    def found(factors):
        params = {"DeepPot": {**problem.params["DeepPot"], "bias": np.zeros(2)}}
        return jax.jit(lambda p: predict_batch(problem.model, p, batch, None, factors))(params)[quantity]

    whole, rounded = found("float32"), found("bfloat16")
    assert rounded.dtype == np.float64
    assert 1e-5 < np.linalg.norm(whole - rounded) / np.linalg.norm(whole) < 2e-2


def test_the_gradient_with_short_factors_is_the_whole_one_within_their_rounding(problem, batch):
    whole, rounded = (tree.flatten(gradient(problem, batch, f)(problem.params)) for f in ("float32", "bfloat16"))
    for name, values in whole.items():
        if np.any(values):
            assert 0.0 < np.linalg.norm(values - rounded[name]) < 3e-2 * np.linalg.norm(values), name


@pytest.mark.slow
def test_a_restart_with_short_factors_is_bit_for_bit(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "summary", lambda *_: "")
    original = Progress.update

    def update(self, step):
        original(self, step)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    changes = {**data, **SHORT}
    whole = small.train_in(tmp_path / "whole", changes)
    assert json.loads((tmp_path / "whole" / "out.json").read_text())["training"]["mixed_precision"] == {
        "output_prec": "float32",
        "compute_prec": "bfloat16",
    }
    assert read_input(tmp_path / "whole" / "out.json").training.factors == "bfloat16"
    assert {str(x.dtype) for name, x in ckpt.read(whole).parts["trained"].items()} == {"float32"}
    with monkeypatch.context() as once, pytest.raises(SystemExit):
        once.setattr(Progress, "update", update)
        once.setattr(loop, "_CALL", 0.0)  # each step a call of its own
        small.train_in(tmp_path / "parts", changes)
    end = small.train_in(tmp_path / "parts", changes, restart=tmp_path / "parts")
    assert small.digest(end) == small.digest(whole)
    assert small.digest(end) != small.digest(small.train_in(tmp_path / "float32", data))


@pytest.mark.parametrize("key", ["training.enable_tf32", "training.mixed_precision"])
@pytest.mark.parametrize("net", ["model.descriptor", "model.fitting_net"])
def test_short_factors_need_nets_in_float32(tmp_path, key, net):
    changes = {**SINGLE, f"{net}.precision": "float64", **(SHORT if "mixed" in key else {key: True})}
    with pytest.raises(InputError, match=f'{key} is for nets in float32: set "precision": "float32" in {net}$'):
        read_input(small.write_input(tmp_path, changes))


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"compute_prec": "float16"}, '"float16" overflows beyond 65504, .* give "bfloat16"'),
        ({"compute_prec": "bfloat"}, '"bfloat16"'),
        ({"output_prec": "float64", "compute_prec": "bfloat16"}, '"float32"'),
        ({}, "compute_prec"),
    ],
)
def test_other_precisions_are_refused(tmp_path, section, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read_input(small.write_input(tmp_path, {**SINGLE, "training.mixed_precision": section}))
    assert len(str(caught.value).splitlines()) == 1
