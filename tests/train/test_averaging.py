import jax
import jax.numpy as jnp
import numpy as np

from diffff.train.averaging import ema_init, ema_update, swa_init, swa_update

PATH = [{"a/w": jnp.asarray([1.0 * step, -2.0 * step]), "a/b": jnp.asarray(step**2, jnp.float32)} for step in range(12)]


def test_ema_is_the_weighted_sum_of_all_weights():
    ema = ema_init(PATH[0])
    for weights in PATH[1:]:
        ema = ema_update(ema, weights, 0.8)
    shares = [0.8**11, *(0.2 * 0.8 ** (11 - step) for step in range(1, 12))]
    expected = sum(share * np.asarray(weights["a/w"]) for share, weights in zip(shares, PATH, strict=True))
    np.testing.assert_allclose(ema["a/w"], expected, rtol=1e-14)
    assert ema["a/b"].dtype == jnp.float32


def test_ema_stays_where_the_weights_stay():
    weights = {"w": jnp.asarray([0.1, 1e-300, -3e4])}
    np.testing.assert_array_equal(ema_update(weights, weights, 0.999)["w"], weights["w"])


def test_swa_is_the_mean_of_the_weights_of_every_third_step_from_the_fourth_on():
    update = jax.jit(lambda swa, weights, step: swa_update(swa, weights, step=step, start=4, freq=3))
    swa = swa_init(PATH[0])
    for step, weights in enumerate(PATH[1:], start=1):
        swa = update(swa, weights, step)
        assert int(swa["count"]) == (0 if step < 4 else 1 + (step - 4) // 3)
    np.testing.assert_allclose(swa["mean"]["a/w"], np.mean([PATH[s]["a/w"] for s in (4, 7, 10)], axis=0), rtol=1e-15)
    assert swa["mean"]["a/b"].dtype == jnp.float32
