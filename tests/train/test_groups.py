import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.spec import validate
from diffff.train.groups import Rule, learning_rate_scales, merge, partition

PARAMS = {
    "DeepPot": {
        "descriptor": {"davg": jnp.zeros((1, 4)), "dstd": jnp.ones((1, 4)), "embeddings": {"O": [{"w": jnp.ones(2)}]}},
        "fitting": {"nets": {"O": [{"w": jnp.ones(3), "b": jnp.ones(1)}]}, "fparam_avg": jnp.zeros(1)},
        "bias": jnp.zeros(1),
    }
}
EMBEDDING = "DeepPot/descriptor/embeddings/O/0/w"
WEIGHT, OFFSET = "DeepPot/fitting/nets/O/0/w", "DeepPot/fitting/nets/O/0/b"


def scales(*rules):
    return learning_rate_scales(PARAMS, [validate(Rule, rule) for rule in rules])


def test_without_rules_all_but_the_statistics_train():
    assert scales() == {EMBEDDING: 1.0, WEIGHT: 1.0, OFFSET: 1.0}


def test_the_first_rule_that_matches_holds():
    rules = [
        {"select": "*/b", "lr_scale": 2.0},
        {"select": "DeepPot/fitting/*", "lr_scale": 0.1},
        {"select": "DeepPot/descriptor/*", "train": False},
    ]
    assert scales(*rules) == {WEIGHT: 0.1, OFFSET: 2.0}


def test_statistics_never_train():
    assert set(scales({"select": "*", "lr_scale": 0.5})) == {EMBEDDING, WEIGHT, OFFSET}
    assert set(scales({"select": "DeepPot/bias", "train": False})) == {EMBEDDING, WEIGHT, OFFSET}
    with pytest.raises(InputError, match='"DeepPot/bias" has no effect'):
        scales({"select": "DeepPot/bias"})


def test_rules_without_effect_are_refused():
    with pytest.raises(InputError, match=r'"DeepPot/fiting/\*" selects no parameter. The parameters are DeepPot/bias'):
        scales({"select": "DeepPot/fiting/*", "train": False})
    with pytest.raises(InputError, match=r'"\*/b" has no effect'):
        scales({"select": "DeepPot/*"}, {"select": "*/b", "lr_scale": 0.1})
    with pytest.raises(InputError, match="no parameter is left to train"):
        scales({"select": "*", "train": False})
    with pytest.raises(InputError, match="lr_scale means nothing"):
        scales({"select": "*", "train": False, "lr_scale": 0.1})


def test_merge_undoes_partition():
    trained, frozen = partition(PARAMS, scales({"select": "DeepPot/descriptor/*", "train": False}))
    assert set(trained) == {WEIGHT, OFFSET}
    assert EMBEDDING in frozen and "DeepPot/bias" in frozen
    merged = merge(trained, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, merged, PARAMS)
