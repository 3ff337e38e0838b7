import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import InputError
from jaxseg.losses import cross_entropy, dice_loss, jaccard_loss, make_loss_fn, names
from jaxseg.typing import Output


def test_is_the_weighted_sum_of_what_it_names(batch):
    logits, labels = batch()
    logits = jnp.float32(logits)
    options = {"ignore_index": 255, "class_weights": [1.0, 2.0, 1.0, 0.5]}
    loss_fn = make_loss_fn({"cross_entropy": 1.0, "dice": 0.5, "jaccard": 2.0}, **options)
    loss, logs = jax.jit(loss_fn)(Output(logits), {"image": None, "label": labels})
    terms = {"cross_entropy": cross_entropy, "dice": dice_loss, "jaccard": jaccard_loss}
    expected = {
        name: jax.jit(lambda z, f=f: f(z, labels, **options))(logits) for name, f in terms.items()
    }
    assert logs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-6)
    total = expected["cross_entropy"] + 0.5 * expected["dice"] + 2 * expected["jaccard"]
    np.testing.assert_allclose(loss, total, rtol=1e-6)


def test_auxiliary_heads_count_with_their_weight(batch):
    logits, labels = batch()
    main, first, second = (jnp.float32(logits * scale) for scale in (1, 0.5, 2))
    one = jax.jit(make_loss_fn({"cross_entropy": 2.0}))
    a, b, c = (one(Output(z), {"label": labels})[0] for z in (main, first, second))
    all_heads = jax.jit(make_loss_fn({"cross_entropy": 2.0}, aux_weight=0.3))
    loss, logs = all_heads(Output(main, (first, second)), {"label": labels})
    np.testing.assert_allclose(loss, a + 0.3 * (b + c), rtol=1e-6)
    np.testing.assert_allclose(logs["aux"], b + c, rtol=1e-6)
    np.testing.assert_allclose(logs["cross_entropy"], a / 2, rtol=1e-6)


def test_each_auxiliary_head_may_have_a_weight_of_its_own(batch):
    logits, labels = batch()
    main, first, second = (jnp.float32(logits * scale) for scale in (1, 0.5, 2))
    one = jax.jit(make_loss_fn({"cross_entropy": 2.0}))
    a, b, c = (one(Output(z), {"label": labels})[0] for z in (main, first, second))
    loss_fn = make_loss_fn({"cross_entropy": 2.0}, aux_weights=(0.5, 0.25))
    loss, logs = jax.jit(loss_fn)(Output(main, (first, second)), {"label": labels})
    np.testing.assert_allclose(loss, a + 0.5 * b + 0.25 * c, rtol=1e-6)
    np.testing.assert_allclose(logs["aux"], b + c, rtol=1e-6)
    with pytest.raises(InputError, match="2 auxiliary weights for 1 auxiliary heads"):
        loss_fn(Output(main, (first,)), {"label": labels})
    with pytest.raises(InputError, match="an auxiliary weight is -1"):
        make_loss_fn({"cross_entropy": 2.0}, aux_weights=(0.5, -1.0))


def test_a_head_of_weight_zero_sends_no_gradient(batch):
    logits, labels = batch()
    loss_fn = make_loss_fn({"cross_entropy": 1.0}, aux_weight=0.0)
    grad = jax.jit(
        jax.grad(lambda z: loss_fn(Output(jnp.float32(logits), (z,)), {"label": labels})[0])
    )
    assert not np.asarray(grad(jnp.float32(logits))).any()


def test_options_reach_the_losses(batch):
    logits, labels = batch(ignore_index=7)
    seven = jax.jit(make_loss_fn({"cross_entropy": 1.0}, ignore_index=7))
    usual = jax.jit(make_loss_fn({"cross_entropy": 1.0}))
    logits, relabelled = jnp.float32(logits), np.where(labels == 7, 255, labels)
    assert (
        seven(Output(logits), {"label": labels})[0]
        == usual(Output(logits), {"label": relabelled})[0]
    )


def test_bad_input_is_named():
    with pytest.raises(InputError, match="unknown loss 'dise'; did you mean 'dice'"):
        make_loss_fn({"dise": 1.0})
    with pytest.raises(InputError, match="no loss was given; known: boundary, cross_entropy"):
        make_loss_fn({})
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="weight of dice"):
            make_loss_fn({"dice": weight})


def test_names_are_what_it_knows():
    assert make_loss_fn(dict.fromkeys(names(), 1.0))


def test_options_of_one_loss_reach_it_alone(batch):
    logits, labels = batch()
    logits = jnp.float32(logits)
    weights, options = {"tversky": 1.0, "focal": 1.0}, {"tversky": {"alpha": 1.0, "beta": 1.0}}
    _, logs = jax.jit(make_loss_fn(weights, options=options))(Output(logits), {"label": labels})
    np.testing.assert_allclose(logs["tversky"], jaccard_loss(logits, labels), rtol=1e-6)
    _, plain = jax.jit(make_loss_fn(weights))(Output(logits), {"label": labels})
    assert plain["tversky"] != logs["tversky"]
    assert plain["focal"] == logs["focal"]


def test_unknown_options_are_named():
    for name, option, message in (
        ("dice", "smoth", "unknown option of dice 'smoth'; did you mean 'smooth'"),
        ("dice", "ignore_index", "unknown option of dice 'ignore_index'"),
        ("jaccard", "smooth", "options for jaccard, which is none of the losses: dice"),
    ):
        with pytest.raises(InputError, match=message):
            make_loss_fn({"dice": 1.0}, options={name: {option: 1.0}})
