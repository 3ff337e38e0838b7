"""A train step takes a gradient step, an evaluation step adds up exact totals."""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.tasks import Semantic

KEY = jax.random.key(0)
cross_entropy = losses.make_loss_fn({"cross_entropy": 1.0})


@pytest.fixture(scope="module")
def small(batch):
    return {"image": jnp.float32(batch["image"]), "label": jnp.asarray(batch["label"])}


@pytest.fixture(scope="module")
def plain(plain_net, small):
    """A linear map of each pixel, and its variables."""
    model = plain_net()
    return model, jax.jit(model.init)(KEY, small["image"])


def start(variables, optimizer, **options):
    return train.create_state(variables, optimizer, **options)


class TestTrainStep:
    def test_step_descends_the_gradient(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        step = jax.jit(train.make_train_step(model, optimizer, cross_entropy))
        state, logs = step(start(variables, optimizer), small, KEY)

        def loss(params):
            logits = model.apply({"params": params}, small["image"]).logits
            return losses.cross_entropy(logits, small["label"])

        value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
        norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(gradient)))
        expected = jax.tree.map(lambda p, g: p - 0.5 * g, variables["params"], gradient)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5), state.params, expected
        )
        np.testing.assert_allclose(logs["loss"], value, rtol=1e-6)
        np.testing.assert_allclose(logs["gradient_norm"], norm, rtol=1e-5)
        assert sorted(logs) == ["cross_entropy", "gradient_norm", "loss"]
        assert state.step == 1
        assert state.step.dtype == jnp.int32

    def test_step_preserves_dtypes_and_shapes(self, conv_net, small):
        """Otherwise the second step would be compiled again."""
        model, optimizer = conv_net(), train.adamw(train.poly(1e-2, 10), clip_norm=1.0)
        variables = jax.eval_shape(model.init, KEY, small["image"])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)
        state = start(zeros, optimizer, ema=True)
        step = train.make_train_step(model, optimizer, cross_entropy, ema_decay=0.9)
        after, _ = jax.eval_shape(step, state, small, KEY)
        before = jax.eval_shape(lambda s: s, state)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        assert jax.tree.leaves(after) == jax.tree.leaves(before)
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(after))

    def test_steps_lower_the_loss(self, plain, small):
        model, variables = plain
        optimizer = train.sgd(0.5)
        step = jax.jit(train.make_train_step(model, optimizer, cross_entropy))
        state = start(variables, optimizer)
        seen = []
        for _ in range(10):
            state, logs = step(state, small, KEY)
            seen.append(float(logs["loss"]))
        assert seen[-1] < seen[0]
        assert state.step == 10

    def test_batch_of_ignored_pixels_changes_nothing(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        step = jax.jit(train.make_train_step(model, optimizer, cross_entropy))
        ignored = small | {"label": jnp.full_like(small["label"], 255)}
        state, logs = step(start(variables, optimizer), ignored, KEY)
        assert logs["loss"] == logs["gradient_norm"] == 0
        jax.tree.map(np.testing.assert_array_equal, state.params, variables["params"])

    def test_step_applies_preprocess(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        images = jnp.arange(small["image"].size, dtype=jnp.uint8).reshape(small["image"].shape)
        halve = train.make_train_step(
            model, optimizer, cross_entropy, preprocess=lambda x: x.astype(jnp.float32) / 510
        )
        none = train.make_train_step(model, optimizer, cross_entropy)
        got = jax.jit(halve)(start(variables, optimizer), small | {"image": images}, KEY)
        expected = jax.jit(none)(
            start(variables, optimizer), small | {"image": images.astype(jnp.float32) / 510}, KEY
        )
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), got, expected)

    def test_dropout_masks_depend_on_step_and_key(self, plain_net, plain, small):
        _, variables = plain
        optimizer = optax.sgd(0.0)
        step = jax.jit(train.make_train_step(plain_net(rate=0.5), optimizer, cross_entropy))
        state = start(variables, optimizer)
        second, first_logs = step(state, small, KEY)
        _, again = step(state, small, KEY)
        _, later = step(second, small, KEY)
        _, other = step(state, small, jax.random.key(1))
        assert first_logs["loss"] == again["loss"]
        assert len({float(x["loss"]) for x in (first_logs, later, other)}) == 3

    def test_step_accepts_any_loss_function(self, plain, small):
        model, variables = plain

        def loss_fn(output, batch):
            return jnp.square(output.logits).mean(), {"largest": output.logits.max()}

        step = jax.jit(train.make_train_step(model, optax.sgd(0.1), loss_fn))
        _, logs = step(start(variables, optax.sgd(0.1)), small, KEY)
        assert sorted(logs) == ["gradient_norm", "largest", "loss"]

    @pytest.mark.parametrize(("at", "decay"), [(0, 0.1), (5, 0.4), (1000, 0.75)])
    def test_ema_decay_averages_parameters(self, plain, small, at, decay):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        step = jax.jit(train.make_train_step(model, optimizer, cross_entropy, ema_decay=0.75))
        state = dataclasses.replace(start(variables, optimizer, ema=True), step=jnp.int32(at))
        first, _ = step(state, small, KEY)
        expected = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, variables["params"], first.params
        )
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), first.ema, expected)

    def test_ema_in_state_or_step_alone_raises(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        for ema, decay in ((True, None), (False, 0.9)):
            step = train.make_train_step(model, optimizer, cross_entropy, ema_decay=decay)
            with pytest.raises(InputError, match="an average needs both"):
                jax.eval_shape(step, start(variables, optimizer, ema=ema), small, KEY)
        with pytest.raises(InputError, match=r"ema_decay is 1\.0"):
            train.make_train_step(model, optimizer, cross_entropy, ema_decay=1.0)

    def test_step_accepts_any_output_type(self, small):
        class Boxes(NamedTuple):
            scores: jax.Array

        class Detector(nn.Module):
            @nn.compact
            def __call__(self, images, train=False):
                return Boxes(nn.Dense(1)(images).mean())

        model, optimizer = Detector(), optax.sgd(0.1)
        variables = jax.jit(model.init)(KEY, small["image"])
        step = train.make_train_step(model, optimizer, lambda output, batch: (output.scores, {}))
        _, logs = jax.eval_shape(step, start(variables, optimizer), small, KEY)
        assert sorted(logs) == ["gradient_norm", "loss"]

    def test_model_that_returns_an_array_raises(self, plain, small):
        model, optimizer = nn.Sequential([lambda x, train=False: nn.Dense(2)(x)]), optax.sgd(0.1)
        variables = jax.jit(model.init)(KEY, small["image"])
        state = start(variables, optimizer)
        with pytest.raises(InputError, match=r"bare array \(8, 6, 5, 2\): return jaxseg.Output"):
            jax.eval_shape(
                train.make_train_step(model, optimizer, cross_entropy), state, small, KEY
            )
        task = Semantic(2)
        step = train.make_eval_step(model, task, cross_entropy)
        with pytest.raises(InputError, match="bare array"):
            jax.eval_shape(step, state, small, task.zero())
