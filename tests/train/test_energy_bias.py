import dataclasses

import numpy as np
import pytest

from diffff.errors import InputError
from diffff.train.energy_bias import assigned_bias, change_bias, energy_bias
from diffff.train.stat_sample import samples
from tests.train.reference_systems import BATCHES, STORED, SYSTEMS, make_model

KEYS = {
    "plain": {},
    "preset": {"preset_out_bias": {"energy": [None, -3.25, None]}},
    "rcond": {"fitting": {"rcond": 0.5}},
    "atom_exclude": {"atom_exclude_types": [1]},
}
COUNTS = np.concatenate([s.atoms_per_type(3) for s in samples(make_model(), SYSTEMS, BATCHES)])
ENERGIES = np.concatenate([s.labels["energy"] for s in SYSTEMS])


@pytest.mark.parametrize("case", KEYS)
def test_bias_is_that_of_deepmd_kit(case):
    model = make_model(**KEYS[case])
    bias, deviation = energy_bias(model, samples(model, SYSTEMS, BATCHES))
    np.testing.assert_allclose(bias, STORED[f"{case}/bias"], rtol=1e-12, atol=1e-12)
    assert deviation == pytest.approx(STORED[f"{case}/bias_std"][0], rel=1e-11)


def test_atom_ener_assigns_the_bias_too():
    model = make_model(fitting={"atom_ener": [None, -3.25, None]})
    bias, _ = energy_bias(model, samples(model, SYSTEMS, BATCHES))
    np.testing.assert_allclose(bias, STORED["preset/bias"], rtol=1e-12, atol=1e-12)


def test_two_sources_of_a_bias_must_agree():
    preset = {"energy": [None, -3.25, 1.0]}
    agreed = make_model(fitting={"atom_ener": [-7.0, -3.25, None]}, preset_out_bias=preset)
    assert assigned_bias(agreed).tolist() == [-7.0, -3.25, 1.0]
    with pytest.raises(InputError, match=r"atom H is -3.25 eV in preset_out_bias.energy and -4.0 eV"):
        assigned_bias(make_model(fitting={"atom_ener": [None, -4.0, None]}, preset_out_bias=preset))


def test_one_composition_has_the_smallest_bias():
    system = dataclasses.replace(SYSTEMS[1], labels={"energy": np.array([-30.0, -30.0])})  # O H2
    model = make_model()
    bias, deviation = energy_bias(model, samples(model, [system], [2]))
    np.testing.assert_allclose(bias, [-6.0, -12.0, 0.0], atol=1e-12)
    assert deviation < 1e-12


def test_systems_without_energies_are_left_out():
    without = dataclasses.replace(SYSTEMS[1], labels={})
    model = make_model()
    some = energy_bias(model, samples(model, [SYSTEMS[0], without], [1, 1]))
    assert some[0].tolist() == energy_bias(model, samples(model, SYSTEMS[:1], [1]))[0].tolist()


def test_change_bias_removes_the_mean_error():
    model = make_model()
    params = {**model.init(), "bias": np.array([-1.0, -2.0, -3.0])}
    rng = np.random.default_rng(1)
    predicted = {s.name: s.labels["energy"] + rng.normal(50.0, 1.0, s.n_frames) for s in SYSTEMS}
    after = change_bias(model, params, SYSTEMS, BATCHES, lambda system, frames: predicted[system.name][frames])
    left = ENERGIES - np.concatenate([predicted[s.name] for s in SYSTEMS]) - COUNTS @ (after["bias"] - params["bias"])
    np.testing.assert_allclose(COUNTS.T @ left, 0.0, atol=1e-10)  # the normal equations of least squares
    assert after["bias"][2] == -3.0  # no atom of this type in the data
    assert after["descriptor"] is params["descriptor"]


def test_change_bias_keeps_assigned_energies():
    model = make_model(preset_out_bias={"energy": [None, -3.25, None]})
    params = {**model.init(), "bias": np.array([-400.0, -3.0, 0.0])}
    after = change_bias(model, params, SYSTEMS, BATCHES, lambda s, frames: s.labels["energy"][frames])
    assert after["bias"][1] == pytest.approx(-3.25, abs=1e-15)
    np.testing.assert_allclose(COUNTS[:, 0] @ (COUNTS @ (after["bias"] - params["bias"])), 0.0, atol=1e-10)


def test_change_bias_asks_for_few_frames():
    model, asked = make_model(data_bias_nsample=1), []

    def predict(system, frames):
        asked.append((system.name, frames.tolist()))
        return np.zeros(len(frames))

    change_bias(model, model.init(), SYSTEMS[:2], [1, 5], predict)
    assert asked == [("system_0", [0]), ("system_1", [0, 1])]


def test_change_bias_needs_energies():
    model = make_model()
    with pytest.raises(InputError, match=r"no system has an energy\.npy"):
        change_bias(model, model.init(), [dataclasses.replace(SYSTEMS[0], labels={})], [1], lambda s, f: f)
