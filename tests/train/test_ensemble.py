"""Members of an ensemble are the models that they would be alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics, train
from jaxseg.errors import InputError
from jaxseg.inference import make_probabilities
from jaxseg.train.ensemble import Ensemble, every_member, make_ensemble_eval_step, member
from jaxseg.train.parallel import Parallel
from jaxseg.typing import Output

RATES = (0.1, 0.01, 0.5)


@pytest.fixture(scope="module")
def alone(conv_net, loss_fn, batch):
    """A model, the first variables of three members, and what training each by itself gives, in float64."""
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        keys = jax.random.split(jax.random.key(0), len(RATES))
        variables = jax.jit(jax.vmap(lambda key: model.init(key, batch["image"])))(keys)
        evaluate = jax.jit(train.make_eval_step(model, loss_fn))
        results = []
        for index, rate in enumerate(RATES):
            state = train.create_state(member(variables, index), train.sgd(rate))
            step = jax.jit(train.make_train_step(model, train.sgd(rate), loss_fn))
            for _ in range(3):
                state, logs = step(state, batch, jax.random.key(1))
            totals = evaluate(state, batch, train.EvalTotals.zero(3))
            results.append(jax.tree.map(np.asarray, (state, logs, totals)))
        return model, variables, results


def steps(model, loss_fn):
    def of_rate(rate):
        return train.make_train_step(model, train.sgd(rate), loss_fn)

    step = train.make_ensemble_step(of_rate, jnp.array(RATES))
    return step, make_ensemble_eval_step(train.make_eval_step(model, loss_fn))


@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map"])
def test_each_member_is_what_it_would_be_alone(alone, loss_fn, batch, strategy):
    model, variables, expected = alone
    with jax.enable_x64(True):
        parallel = Parallel(strategy, jax.devices()[:2])
        step, evaluate = steps(model, loss_fn)
        step, evaluate = parallel.compile(step), parallel.compile(evaluate, donate=(2,))
        create = jax.vmap(lambda variables: train.create_state(variables, train.sgd(1.0)))
        states = parallel.replicate(create(variables))
        for _ in range(3):
            states, logs = step(states, parallel.shard(batch), jax.random.key(1))
        totals = parallel.replicate(every_member(train.EvalTotals.zero(3), len(RATES)))
        totals = evaluate(states, parallel.shard(batch), totals)
        for index, own in enumerate(expected):
            got = member((states, logs, totals), index)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-9), got, own)
            np.testing.assert_array_equal(got[2].counts.to_numpy(), own[2].counts.to_numpy())
            assert metrics.mean_iou(got[2].counts) == metrics.mean_iou(own[2].counts)


def test_members_draw_masks_of_their_own(plain_net, loss_fn, batch):
    model = plain_net(rate=0.5)
    batch = {"image": jnp.asarray(batch["image"], jnp.float32), "label": batch["label"]}
    state = train.create_state(model.init(jax.random.key(0), batch["image"]), train.sgd(0.1))

    def make_step(_):
        return train.make_train_step(model, train.sgd(0.1), loss_fn)

    step = jax.jit(train.make_ensemble_step(make_step, jnp.arange(2)))
    logs = step(every_member(state, 2), batch, jax.random.key(1))[1]
    assert logs["loss"][0] != logs["loss"][1]


@pytest.mark.parametrize("classes", [1, 3])
def test_together_they_answer_with_the_mean_probability(classes):
    class Scaled:
        @staticmethod
        def apply(variables, images, train):
            return Output(images * variables["params"])

    images = jax.random.normal(jax.random.key(0), (2, 3, 4, classes)) * 20
    scales = jnp.array([1.0, -2.0, 0.5])
    variables = {"params": scales}
    got = make_probabilities(Ensemble(Scaled))(variables, images)
    each = [make_probabilities(Scaled)(member(variables, i), images) for i in range(3)]
    np.testing.assert_allclose(got, np.mean(each, 0), rtol=1e-5, atol=1e-7)


def test_what_cannot_be(plain_net):
    for settings in ({}, 0.1, {"a": jnp.ones(2), "b": jnp.ones(3)}):
        with pytest.raises(InputError, match="first axis is the members'"):
            train.make_ensemble_step(lambda _: None, settings)
    with pytest.raises(InputError, match="not trained as one"):
        Ensemble(plain_net()).apply({}, jnp.zeros((1, 2, 2, 2)), train=True)
