"""BatchNorm layers under a frozen prefix keep their statistics; nothing of it outlives the block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.nn import BatchNorm
from jaxseg.train.batch_norm import intercept_batch_norm
from jaxseg.typing import Output

loss_fn = losses.make_loss_fn({"cross_entropy": 1.0})


class Norms(nn.Module):
    """Three BatchNorm layers: ours, and Flax's with the option as a keyword and as a field."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Part(name="encoder")(x, train)
        x = nn.BatchNorm(use_running_average=not train, name="field")(x)
        return Output(nn.Dense(2, name="head")(x))


class Part(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm(name="ours")(x, train=train)
        return nn.BatchNorm(name="named")(x, use_running_average=not train)


@pytest.fixture(scope="module")
def images():
    return jnp.float32(3 + np.random.default_rng(0).normal(size=(2, 4, 4, 2)))


@pytest.fixture(scope="module")
def variables(images):
    return jax.jit(Norms().init)(jax.random.key(0), images)


@pytest.fixture(scope="module")
def forward(variables, images):
    """A function from frozen prefixes to the logits in training and the new statistics."""

    def run(prefixes):
        def apply():
            with intercept_batch_norm(prefixes):
                return Norms().apply(variables, images, train=True, mutable=["batch_stats"])

        output, updated = jax.jit(apply)()
        return output.logits, updated["batch_stats"]

    return run


def moved(old, new):
    """Returns the layers whose running mean and variance have both changed."""
    found = {}
    for path, before in jax.tree.leaves_with_path(old):
        after = new
        for key in path:
            after = after[key.key]
        layer = "/".join(key.key for key in path[:-1])
        found.setdefault(layer, set()).add(bool((before != after).any()))
    assert all(len(changed) == 1 for changed in found.values())
    return {layer for layer, changed in found.items() if changed == {True}}


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [
        ((), {"encoder/ours", "encoder/named", "field"}),
        (("encoder",), {"field"}),
        (("encoder/named", "field"), {"encoder/ours"}),
        (("",), set()),
    ],
)
def test_frozen_statistics_do_not_change(forward, variables, prefixes, expected):
    _, statistics = forward(prefixes)
    assert moved(variables["batch_stats"], statistics) == expected


def test_frozen_layers_normalise_with_their_running_statistics(forward, variables, images):
    """All of them frozen is the network in evaluation."""
    evaluated = jax.jit(Norms().apply)(variables, images).logits
    np.testing.assert_allclose(forward(("",))[0], evaluated, rtol=1e-5, atol=1e-6)
    assert np.abs(forward(())[0] - evaluated).max() > 0.1


def test_freezing_ends_with_the_block(forward, variables, images):
    model = Norms()
    jax.eval_shape(lambda: frozen(model, variables, images))
    _, updated = jax.jit(
        lambda: model.apply(variables, images, train=True, mutable=["batch_stats"])
    )()
    assert len(moved(variables["batch_stats"], updated["batch_stats"])) == 3


def frozen(model, variables, images):
    with intercept_batch_norm(("",)):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])


def test_train_step_freezes_statistics_under_a_prefix(variables, images):
    """Scale and bias are trained: frozen statistics are not frozen parameters."""
    optimizer, batch = optax.sgd(0.1), {"image": images, "label": jnp.zeros((2, 4, 4), jnp.int32)}
    step = train.make_train_step(Norms(), optimizer, loss_fn, frozen_statistics=("encoder",))
    state = train.create_state(variables, optimizer)
    after, _ = jax.jit(step)(state, batch, jax.random.key(0))
    assert moved(variables["batch_stats"], after.batch_stats) == {"field"}
    assert "encoder/ours" in moved(variables["params"], after.params)


def test_prefix_without_a_layer_raises(variables, images):
    with (
        pytest.raises(InputError, match=r"no BatchNorm layer lies under 'head'.*encoder, field"),
        intercept_batch_norm(("head",)),
    ):
        Norms().apply(variables, images)
    with pytest.raises(InputError, match="there is none"), intercept_batch_norm(("",)):
        pass


def test_error_in_the_block_is_raised():
    with pytest.raises(ZeroDivisionError), intercept_batch_norm(("encoder",)):
        _ = 1 / 0
