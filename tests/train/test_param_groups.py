"""Parts of a model train at multiples of the learning rate, or are frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import train
from jaxseg.errors import InputError
from jaxseg.train.param_groups import freeze, scale_learning_rates

PARAMS = {
    "encoder": {"stem": {"kernel": jnp.full((3, 2), 2.0)}, "stage": {"kernel": jnp.ones((2, 2))}},
    "encoder_2": {"kernel": jnp.full((2, 2), 2.0)},
    "head": {"kernel": jnp.full((2, 1), 2.0), "bias": jnp.full(1, 2.0)},
}


def first_update(optimizer):
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(optimizer.update)(gradient, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize("make", [train.adamw, train.sgd])
def test_updates_are_scaled_by_the_longest_prefix(make):
    """Weight decay and clipping included; prefixes are of whole names."""
    optimizer = make(0.1, weight_decay=0.3, clip_norm=0.7)
    factors = {"encoder": 0.5, "encoder/stem": 0.25}
    (scaled, state), (unscaled, expected) = map(
        first_update, (scale_learning_rates(optimizer, factors), optimizer)
    )
    ratio = jax.tree.map(lambda a, b: np.unique(np.round(a / b, 5)).tolist(), scaled, unscaled)
    assert ratio == {
        "encoder": {"stem": {"kernel": [0.25]}, "stage": {"kernel": [0.5]}},
        "encoder_2": {"kernel": [1.0]},
        "head": {"kernel": [1.0], "bias": [1.0]},
    }
    assert jax.tree.structure(state) == jax.tree.structure(expected)


def test_frozen_parts_have_no_update():
    optimizer = freeze(scale_learning_rates(optax.sgd(1.0), {"head": 0.5}), ("encoder",))
    updates, _ = first_update(optimizer)
    assert updates["head"]["bias"].tolist() == [-0.5]
    assert not np.asarray(updates["encoder"]["stem"]["kernel"]).any()


def test_invalid_factors_raise_input_errors():
    with pytest.raises(InputError, match="no parameter lies under 'backbone'"):
        scale_learning_rates(optax.sgd(1.0), {"backbone": 0.1}).init(PARAMS)
    with pytest.raises(InputError, match="the factor of 'encoder' is -1"):
        scale_learning_rates(optax.sgd(1.0), {"encoder": -1.0})
