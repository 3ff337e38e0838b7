"""Members of an ensemble equal models that are trained alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics, train
from jaxseg.errors import InputError
from jaxseg.inference import make_predict
from jaxseg.models import Ensemble
from jaxseg.parallel.strategy import Parallel
from jaxseg.tasks import Semantic
from jaxseg.tasks.semantic import probabilities
from jaxseg.train.ensemble import (
    make_ensemble_eval_step,
    repeat_for_members,
    select_member,
)
from jaxseg.typing import Output

RATES = (0.1, 0.01, 0.5)


@pytest.fixture(scope="module")
def single_models(conv_net, loss_fn, batch):
    """A model, the initial variables of three members, and the results of training each alone, in float64."""
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        keys = jax.random.split(jax.random.key(0), len(RATES))
        variables = jax.jit(jax.vmap(lambda key: model.init(key, batch["image"])))(keys)
        evaluate = jax.jit(train.make_eval_step(model, Semantic(3), loss_fn))
        results = []
        for index, rate in enumerate(RATES):
            state = train.create_state(select_member(variables, index), train.sgd(rate))
            step = jax.jit(train.make_train_step(model, train.sgd(rate), loss_fn))
            for _ in range(3):
                state, logs = step(state, batch, jax.random.key(1))
            totals, _ = evaluate(state, batch, Semantic(3).zero())
            results.append(jax.tree.map(np.asarray, (state, logs, totals)))
        return model, variables, results


def make_steps(model, loss_fn):
    def make_step(rate):
        return train.make_train_step(model, train.sgd(rate), loss_fn)

    step = train.make_ensemble_step(make_step, jnp.array(RATES))
    return step, make_ensemble_eval_step(train.make_eval_step(model, Semantic(3), loss_fn))


@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map"])
@pytest.mark.slow
def test_members_equal_models_trained_alone(single_models, loss_fn, batch, strategy):
    model, variables, expected = single_models
    with jax.enable_x64(True):
        parallel = Parallel(strategy, jax.devices()[:2])
        step, evaluate = make_steps(model, loss_fn)
        step, evaluate = parallel.compile(step), parallel.compile(evaluate, donate=(2,))
        create = jax.vmap(lambda variables: train.create_state(variables, train.sgd(1.0)))
        states = parallel.replicate(create(variables))
        for _ in range(3):
            states, logs = step(states, parallel.shard(batch), jax.random.key(1))
        totals = parallel.replicate(repeat_for_members(Semantic(3).zero(), len(RATES)))
        totals, _ = evaluate(states, parallel.shard(batch), totals)
        for index, single in enumerate(expected):
            got = select_member((states, logs, totals), index)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-9), got, single)
            np.testing.assert_array_equal(got[2].counts.to_numpy(), single[2].counts.to_numpy())
            assert metrics.mean_iou(got[2].counts) == metrics.mean_iou(single[2].counts)


def test_members_sample_different_dropout_masks(plain_net, loss_fn, batch):
    model = plain_net(rate=0.5)
    batch = {"image": jnp.asarray(batch["image"], jnp.float32), "label": batch["label"]}
    state = train.create_state(model.init(jax.random.key(0), batch["image"]), train.sgd(0.1))

    def make_step(_):
        return train.make_train_step(model, train.sgd(0.1), loss_fn)

    step = jax.jit(train.make_ensemble_step(make_step, jnp.arange(2)))
    logs = step(repeat_for_members(state, 2), batch, jax.random.key(1))[1]
    assert logs["loss"][0] != logs["loss"][1]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.slow
def test_ensemble_predicts_the_mean_probability(classes):
    class Scaled:
        @staticmethod
        def apply(variables, images, train):
            return Output(images * variables["params"])

    images = jax.random.normal(jax.random.key(0), (2, 3, 4, classes)) * 20
    scales = jnp.array([1.0, -2.0, 0.5])
    variables = {"params": scales}
    got = make_predict(Ensemble(Scaled), probabilities)(variables, images)
    each = [
        make_predict(Scaled, probabilities)(select_member(variables, i), images) for i in range(3)
    ]
    np.testing.assert_allclose(got, np.mean(each, 0), rtol=1e-5, atol=1e-7)


def test_invalid_use_raises_input_errors(plain_net):
    for settings in ({}, 0.1, {"a": jnp.ones(2), "b": jnp.ones(3)}):
        with pytest.raises(InputError, match="a first axis of members"):
            train.make_ensemble_step(lambda _: None, settings)
    with pytest.raises(InputError, match="not trained as one model"):
        Ensemble(plain_net()).apply({}, jnp.zeros((1, 2, 2, 2)), train=True)
