"""Schedules equal their formulas, weight decay spares biases, and frozen parameters do not change."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.train import optimizers
from jaxseg.train.param_groups import freeze

PARAMS = {
    "encoder": {"conv": {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.full(2, 2.0)}},
    "encoder_2": {"kernel": jnp.full((2, 2), 2.0)},
    "head": {"kernel": jnp.full((2, 1), 2.0), "bias": jnp.full(1, 2.0)},
}


def updated(optimizer, gradient, params=PARAMS, steps=1):
    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = jax.jit(step)(params, state)
    return params, state


zeros = jax.tree.map(jnp.zeros_like, PARAMS)
ones = jax.tree.map(jnp.ones_like, PARAMS)


class TestSchedules:
    @pytest.mark.parametrize("warmup", [0, 1, 7])
    def test_poly_equals_its_formula(self, warmup):
        schedule = optimizers.poly(0.1, 50, warmup_steps=warmup, power=0.9)
        expected = [
            0.1 * (t + 1) / (warmup + 1)
            if t < warmup
            else 0.1 * (1 - (t - warmup) / (50 - warmup)) ** 0.9
            for t in range(50)
        ]
        np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.arange(50)), expected, rtol=1e-5)

    @pytest.mark.parametrize("warmup", [0, 7])
    def test_cosine_equals_its_formula(self, warmup):
        schedule = optimizers.cosine(0.1, 50, warmup_steps=warmup)
        expected = [
            0.1 * (t + 1) / (warmup + 1)
            if t < warmup
            else 0.05 * (1 + math.cos(math.pi * (t - warmup) / (50 - warmup)))
            for t in range(50)
        ]
        np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.arange(50)), expected, rtol=1e-5)

    def test_learning_rates_are_positive(self):
        for make in (optimizers.poly, optimizers.cosine):
            schedule = jax.jit(jax.vmap(make(1.0, 20, warmup_steps=5)))
            assert (schedule(jnp.arange(20)) > 0).all()

    @pytest.mark.parametrize("make", [optimizers.poly, optimizers.cosine])
    def test_invalid_arguments_raise_input_errors(self, make):
        with pytest.raises(InputError, match="10 warm-up steps leave none of 10"):
            make(0.1, 10, warmup_steps=10)
        with pytest.raises(InputError, match="-1 warm-up"):
            make(0.1, 10, warmup_steps=-1)
        with pytest.raises(InputError, match="of 0 steps"):
            make(0.1, 0)
        for peak in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(InputError, match="must be positive"):
                make(peak, 10)


@pytest.mark.parametrize("make", [optimizers.adamw, optimizers.sgd])
class TestBuilders:
    def test_weight_decay_applies_to_kernels_alone(self, make):
        params, _ = updated(make(0.1, weight_decay=0.5), zeros)
        for path, leaf in jax.tree.leaves_with_path(params):
            decays = path[-1].key == "kernel"
            np.testing.assert_allclose(leaf, 2 - 0.1 * 0.5 * 2 if decays else 2, rtol=1e-6)

    def test_learning_rate_may_be_a_schedule(self, make):
        rates = optax.piecewise_constant_schedule(0.0, {1: 0.0})
        params, _ = updated(make(rates), ones)
        jax.tree.map(np.testing.assert_array_equal, params, PARAMS)

    def test_clip_norm_of_zero_raises(self, make):
        with pytest.raises(InputError, match="clip_norm is 0"):
            make(0.1, clip_norm=0)


def test_clip_norm_limits_the_global_norm():
    params, _ = updated(optimizers.sgd(1.0, weight_decay=0.0, clip_norm=0.5), ones)
    moved = jax.tree.map(lambda new, old: new - old, params, PARAMS)
    np.testing.assert_allclose(
        np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(moved))), 0.5, rtol=1e-5
    )


def test_sgd_equals_torchs_momentum():
    """v = 0.9 v + g + 0.5 w; w -= 0.1 v, twice."""
    params, _ = updated(optimizers.sgd(0.1, weight_decay=0.5), ones, steps=2)
    w, v = 2.0, 0.0
    for _ in range(2):
        v = 0.9 * v + 1 + 0.5 * w
        w -= 0.1 * v
    np.testing.assert_allclose(params["head"]["kernel"], w, rtol=1e-6)


class TestFreeze:
    @pytest.mark.parametrize("make", [optimizers.adamw, optimizers.sgd])
    def test_frozen_parameters_do_not_change_or_have_state(self, make):
        optimizer = make(0.1, weight_decay=0.5, clip_norm=1.0)
        params, state = updated(freeze(optimizer, ("encoder",)), ones, steps=3)
        jax.tree.map(np.testing.assert_array_equal, params["encoder"], PARAMS["encoder"])
        for name in ("encoder_2", "head"):
            assert all(
                map(
                    np.all, jax.tree.leaves(jax.tree.map(jnp.not_equal, params[name], PARAMS[name]))
                )
            )
        free = {name: PARAMS[name] for name in ("encoder_2", "head")}
        shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim)
        assert shapes == sorted(x.shape for x in jax.tree.leaves(optimizer.init(free)) if x.ndim)

    def test_other_parameters_train_as_if_alone(self):
        optimizer = optimizers.adamw(0.1, clip_norm=0.5)
        params, _ = updated(freeze(optimizer, ("encoder", "head/bias")), ones, steps=3)
        free = {"encoder_2": PARAMS["encoder_2"], "head": {"kernel": PARAMS["head"]["kernel"]}}
        expected, _ = updated(optimizer, jax.tree.map(jnp.ones_like, free), free, steps=3)
        np.testing.assert_array_equal(params["head"]["kernel"], expected["head"]["kernel"])
        np.testing.assert_array_equal(
            params["encoder_2"]["kernel"], expected["encoder_2"]["kernel"]
        )

    def test_prefixes_are_of_whole_names(self):
        trainable = freeze(optax.sgd(1.0), ("encoder",)).trainable(PARAMS)
        assert not trainable["encoder"]["conv"]["kernel"]
        assert trainable["encoder_2"]["kernel"]

    def test_prefix_without_a_parameter_raises(self):
        with pytest.raises(
            InputError, match=r"no parameter lies under 'backbone'.*encoder, encoder_2, head"
        ):
            freeze(optax.sgd(1.0), ("head", "backbone")).init(PARAMS)
        with pytest.raises(InputError, match=r"use \('encoder',\)"):
            freeze(optax.sgd(1.0), "encoder")

    def test_train_step_has_no_gradient_of_frozen_params(self, conv_net, batch):
        """Neither the gradient norm nor the compiled step contains that of the first convolution."""
        images = jnp.float32(batch["image"])
        model, loss_fn = conv_net(), losses.make_loss_fn({"cross_entropy": 1.0})
        variables = jax.jit(model.init)(jax.random.key(0), images)
        batch = {"image": images, "label": batch["label"]}
        logs, convolutions = {}, {}
        for name, prefixes in (("all", None), ("head", ("conv", "norm"))):
            optimizer = optax.sgd(0.1)
            if prefixes:
                optimizer = freeze(optimizer, prefixes)
            state = train.create_state(variables, optimizer)
            step = jax.jit(train.make_train_step(model, optimizer, loss_fn))
            step = step.lower(state, batch, jax.random.key(0))
            convolutions[name] = step.as_text().count("stablehlo.convolution")
            after, logs[name] = step.compile()(state, batch, jax.random.key(0))
        assert convolutions == {"all": 5, "head": 3}
        assert 0 < logs["head"]["gradient_norm"] < logs["all"]["gradient_norm"]
        np.testing.assert_allclose(logs["head"]["loss"], logs["all"]["loss"], rtol=1e-6)
        for part in ("conv", "norm"):
            jax.tree.map(
                np.testing.assert_array_equal, after.params[part], variables["params"][part]
            )
        gradient = jax.tree.map(
            functools.partial(np.subtract), variables["params"]["head"], after.params["head"]
        )
        norm = np.sqrt(sum(((g / 0.1) ** 2).sum() for g in jax.tree.leaves(gradient)))
        np.testing.assert_allclose(logs["head"]["gradient_norm"], norm, rtol=1e-4)
