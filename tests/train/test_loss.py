import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.spec import completed, validate
from diffff.train.loss import EnergyLoss

REFERENCE = json.loads((Path(__file__).parents[1] / "references" / "loss_schedule.json").read_text())
PREDICTION = {name: jnp.asarray(values) for name, values in REFERENCE["prediction"].items()}
LABELS = {name: jnp.asarray(values) for name, values in REFERENCE["labels"].items()}
REAL = jnp.asarray(REFERENCE["real"]["real"]) == 1.0
EVERYTHING = {
    "start_pref_e": 1.0,
    "start_pref_v": 1.0,
    "start_pref_ae": 1.0,
    "start_pref_pf": 1.0,
    "start_pref_gf": 1.0,
    "numb_generalized_coord": 2,
}


def call(loss, prediction, labels, mixed, lr_ratio=0.3):
    real = REAL if mixed else None
    n_real = REAL.sum(axis=1) if mixed else jnp.full(REAL.shape[0], REAL.shape[1])
    return loss(prediction, labels, real, n_real, lr_ratio)


@pytest.mark.parametrize("case", REFERENCE["losses"], ids=lambda case: f"{case['spec']}-{case['mixed']}")
def test_loss_and_metrics_are_those_of_deepmd_kit(case):
    loss = validate(EnergyLoss, case["spec"])
    labels = {name: LABELS[name] for name in case["labels"]}
    prediction = {name: PREDICTION[name] for name in loss.needs(case["labels"])}
    value, metrics = jax.jit(lambda p, y: call(loss, p, y, case["mixed"], case["lr_ratio"]))(prediction, labels)
    assert set(metrics) == set(loss.metrics) == set(case["metrics"])
    np.testing.assert_allclose(value, case["loss"], rtol=1e-12)
    for name, expected in case["metrics"].items():
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-12, err_msg=name)


def test_loss_by_hand():
    """Two atoms: ΔE = 0.5 eV, one force component wrong by 0.3 eV/Å; the prefactors are half way."""
    labels = {"energy": jnp.asarray([-10.0]), "force": jnp.zeros((1, 2, 3))}
    prediction = {"energy": jnp.asarray([-9.5]), "force": jnp.zeros((1, 2, 3)).at[0, 1, 2].set(0.3)}
    loss = EnergyLoss(start_pref_e=0.2, limit_pref_e=1.0, start_pref_f=9.0, limit_pref_f=1.0)
    value, metrics = loss(prediction, labels, None, jnp.asarray([2]), 0.5)
    assert value == pytest.approx(0.6 * 0.5**2 / 2 + 5.0 * 0.3**2 / 6)
    by_hand = {"rmse": float(value) ** 0.5, "rmse_e": 0.25, "rmse_f": 0.3 / 6**0.5}
    assert {name: float(error) for name, error in metrics.items()} == pytest.approx(by_hand)
    assert loss.metrics == ("rmse", "rmse_e", "rmse_f")


def test_a_missing_label_contributes_nothing_and_is_shown_as_nan():
    loss = EnergyLoss(start_pref_v=1.0, start_pref_ae=1.0)
    labels = {"energy": LABELS["energy"]}
    assert loss.needs(labels) == {"energy"}
    value, metrics = call(loss, {"energy": PREDICTION["energy"]}, labels, mixed=False)
    assert float(value) == float(call(EnergyLoss(), {"energy": PREDICTION["energy"]}, labels, mixed=False)[0]) > 0
    assert {name for name, error in metrics.items() if np.isnan(error)} == {"rmse_f", "rmse_v", "rmse_ae"}


def test_needs_only_what_has_a_weight_and_a_label():
    everything = {"energy", "force", "virial", "atom_ener", "atom_ener_coeff"}
    assert EnergyLoss().needs(everything) == {"energy", "force"}
    assert EnergyLoss(start_pref_f=0, limit_pref_f=0).needs(everything) == {"energy"}
    assert EnergyLoss(limit_pref_v=1.0).needs(everything) == {"energy", "force", "virial"}
    assert EnergyLoss(enable_atom_ener_coeff=True).needs(everything) == {"atom_ener", "force"}
    assert EnergyLoss(enable_atom_ener_coeff=True).needs({"energy"}) == {"energy"}


@pytest.mark.parametrize("variant", [{}, {"loss_func": "mae", "f_use_norm": True}, {"relative_f": 0.1}])
def test_what_stands_in_empty_slots_changes_neither_loss_nor_gradient(variant):
    loss = validate(EnergyLoss, {**EVERYTHING, **variant})

    def value(prediction, labels):
        return call(loss, prediction, labels, mixed=True)[0]

    def with_rubbish(values):
        per_atom = {name: v for name, v in values.items() if name in ("force", "atom_ener", "atom_pref", "drdq")}
        masks = {name: REAL.reshape(REAL.shape + (1,) * (v.ndim - 2)) for name, v in per_atom.items()}
        return values | {name: jnp.where(masks[name], v, 1e30) for name, v in per_atom.items()}

    clean = jax.value_and_grad(value)(PREDICTION, LABELS)
    dirty = jax.value_and_grad(value)(with_rubbish(PREDICTION), with_rubbish(LABELS))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert np.all(np.asarray(clean[1]["force"])[~REAL] == 0.0)


def test_gradients_stay_finite_for_a_perfect_prediction():
    labels = {name: LABELS[name] for name in ("energy", "force", "virial")}
    for variant in ({}, {"loss_func": "mae", "f_use_norm": True}, {"use_huber": True, "f_use_norm": True}):
        loss = validate(EnergyLoss, {"start_pref_v": 1.0, **variant})
        gradient = jax.grad(lambda p, loss=loss: call(loss, p, labels, mixed=False)[0])(labels)
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"start_pref_h": 1.0}, r"\$\.start_pref_h: the Hessian loss is not available"),
        ({"start_pref_e": -1.0}, r"\$\.start_pref_e: must be at least 0"),
        ({"f_use_norm": True}, "f_use_norm needs use_huber"),
        ({"use_huber": True, "loss_func": "mae"}, "exclude each other"),
        ({"use_huber": True, "relative_f": 1.0}, "use_huber does not go with"),
        ({"start_pref_gf": 1.0}, "numb_generalized_coord"),
        ({"use_huber": True, "huber_delta": [0.1, 0.2]}, "huber_delta"),
    ],
)
def test_what_has_no_meaning_is_refused(section, message):
    with pytest.raises(InputError, match=message):
        validate(EnergyLoss, section)


def test_spellings_of_deepmd_kit_are_read():
    loss = validate(EnergyLoss, {"type": "ener", "start_pref_h": 0, "limit_pref_h": 0.0, "huber_delta": [1, 2, 3]})
    assert loss.huber_delta == (1, 2, 3)
    assert completed(loss)["limit_pref_f"] == 1.0
