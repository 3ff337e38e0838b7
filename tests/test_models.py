"""One tester for every network: shapes, sizes, options, gradients, types."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import (
    CLASSES,
    NETWORKS,
    ON_ANY_ENCODER,
    ON_VGG,
    SIZE,
    SLOW,
    OwnEncoder,
    create,
    fast_jit,
    random_variables,
    shapes,
    small_model,
)

from jaxseg import models
from jaxseg.decoders import FPN
from jaxseg.nn import MERGES, UPSAMPLINGS


class Subject:
    """One network with random variables, images, and what its compiled functions make of them."""

    def __init__(self, name):
        self.name, self.model = name, small_model(name)
        self.variables = random_variables(shapes(self.model)[1])
        self.images = jnp.asarray(np.random.default_rng(1).normal(size=(2, *SIZE, 3)), jnp.float32)
        self.logits = fast_jit(self.model.apply)(self.variables, self.images).logits
        (_, (self.train_logits, self.updated)), self.gradients = fast_jit(
            jax.value_and_grad(self.loss, has_aux=True)
        )(self.variables["params"])

    def loss(self, params):
        variables = {**self.variables, "params": params}
        key = {"dropout": jax.random.key(0)}
        output, updated = self.model.apply(
            variables, self.images, train=True, mutable=True, rngs=key
        )
        weights = np.random.default_rng(2).normal(size=output.logits.shape).astype(np.float32)
        logits = sum(output.aux_logits, output.logits)
        return (logits * weights).mean(), (output.logits, updated)


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NETWORKS],
)
def subject(request):
    return Subject(request.param)


def test_output(subject):
    assert subject.logits.shape == (2, *SIZE, CLASSES)
    assert subject.logits.dtype == jnp.float32
    assert 0.01 < subject.logits.std() < 100
    assert np.isfinite(subject.train_logits).all()


def test_gradient_reaches_every_parameter(subject):
    for path, gradient in jax.tree_util.tree_leaves_with_path(subject.gradients):
        *parents, module, leaf = (key.key for key in path)
        block = functools.reduce(lambda tree, key: tree[key], parents, subject.gradients)
        before_norm = (module, leaf) == (
            "conv",
            "bias",
        ) and "norm" in block  # the mean takes it away
        assert np.isfinite(gradient).all(), path
        assert before_norm or np.abs(gradient).max() > 0, path


def test_training_changes_batch_statistics_alone(subject):
    assert set(subject.updated) == set(subject.variables)
    jax.tree.map(
        np.testing.assert_array_equal, subject.updated["params"], subject.variables["params"]
    )
    before, after = (
        jax.tree.leaves(v.get("batch_stats", {})) for v in (subject.variables, subject.updated)
    )
    assert all(np.isfinite(b).all() and (a != b).any() for a, b in zip(before, after, strict=True))
    assert np.abs(subject.train_logits - subject.logits).max() > 0.01


def test_an_image_alone_and_without_jit_gives_the_same(subject):
    alone = subject.model.apply(subject.variables, subject.images[1:]).logits
    scale = np.abs(subject.logits).max()
    np.testing.assert_allclose(alone / scale, subject.logits[1:] / scale, rtol=0, atol=1e-5)


def at_the_places_of(model, subject):
    """The logits of the float32 SegNet whose max-pools had found the maxima where `model`'s are."""
    part = {kind: tree["encoder"] for kind, tree in subject.variables.items()}

    def places_of(encoder):
        run = fast_jit(lambda v, x: encoder.apply(v, x, method="with_places")[1])
        return run(part, subject.images)

    places = places_of(model.encoder)
    moved = [(a != b).mean() for a, b in zip(places, places_of(subject.model.encoder), strict=True)]
    assert 0 < max(moved) < 0.05

    def put(function, args, kwargs, context):
        result = function(*args, **kwargs)
        return (result[0], places) if context.method_name == "with_places" else result

    with nn.intercept_methods(put):
        return fast_jit(subject.model.apply)(subject.variables, subject.images).logits


def test_bfloat16_is_near_float32(subject):
    """The root mean square of the difference is below 2 % of that of the logits.

    SegNet's logits jump where two values of a window are nearly equal and rounding moves the maximum to the other: it
    is compared with the float32 network at the same places. (tests/networks/test_segnet.py: with an encoder in float32 no
    place moves, and the whole of it is as near as the others.)
    """
    model = small_model(subject.name, dtype=jnp.bfloat16)
    output = fast_jit(model.apply)(subject.variables, subject.images)
    assert output.logits.dtype == jnp.float32
    exact = at_the_places_of(model, subject) if subject.name == "segnet" else subject.logits
    error = jnp.sqrt(jnp.square(output.logits - exact).mean() / jnp.square(exact).mean())
    assert 0 < error < 2e-2


@pytest.mark.parametrize("name", NETWORKS)
def test_number_of_parameters(name):
    _, variables = shapes(create(name, "vgg16_bn" if name in ON_VGG else "resnet34", 1))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == NETWORKS[name]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_batch_channels_and_classes(name, train):
    for size in [(1, 1), (1, 50), (64, 96), (65, 63)]:
        output, _ = shapes(small_model(name, 1), (1, *size, 3), train=train)
        assert output.logits.shape == (1, *size, 1)
    for channels in (1, 12):
        output, _ = shapes(small_model(name, in_channels=channels), (3, 9, 8, channels))
        assert output.logits.shape == (3, 9, 8, CLASSES)


def test_one_pixel_in_training(subject):
    def run(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return subject.model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=rngs
        )

    result = fast_jit(run)(subject.variables, subject.images[:1, :1, :1])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))


@pytest.mark.parametrize("name", ["unet", "fpn"])
@pytest.mark.parametrize(
    "options", [{"depth": d} for d in (1, 2, 3, 4)] + [{"output_stride": s} for s in (8, 16)]
)
def test_any_depth_and_output_stride(name, options):
    output, _ = shapes(create(name, encoder_options=options))
    assert output.logits.shape == (1, *SIZE, CLASSES)


@pytest.mark.parametrize("name", ON_ANY_ENCODER)
def test_on_bottlenecks(name):
    assert shapes(create(name, "resnet50"))[0].logits.shape == (1, *SIZE, CLASSES)


@pytest.mark.parametrize("name", ON_ANY_ENCODER)
def test_ones_own_encoder(name):
    model = create(name, OwnEncoder())
    variables = random_variables(shapes(model)[1])
    images = jnp.ones((1, *SIZE, 3))
    logits = fast_jit(model.apply)(variables, images).logits
    assert logits.shape == (1, *SIZE, CLASSES)
    assert np.isfinite(logits).all()
    assert shapes(model, (1, 1, 1, 3))[0].logits.shape == (1, 1, 1, CLASSES)


def test_dropout_drops_whole_channels_and_needs_a_key():
    decoder = FPN(pyramid_channels=8, segmentation_channels=32, dropout=0.5)
    features = [jnp.ones((2, 4, 4, 3))]
    variables = random_variables(jax.eval_shape(decoder.init, jax.random.key(0), features, (8, 8)))
    with pytest.raises(Exception, match="dropout"):
        decoder.apply(variables, features, (8, 8), train=True)
    whole = decoder.apply(variables, features, (8, 8))[0]
    rngs = {"dropout": jax.random.key(1)}
    dropped = decoder.apply(variables, features, (8, 8), train=True, rngs=rngs)[0]
    kept = np.asarray((dropped != 0).any((1, 2)))
    assert 10 < kept.sum() < 54
    assert kept[0].tolist() != kept[1].tolist()
    np.testing.assert_allclose(
        dropped, 2 * np.asarray(whole) * kept[:, None, None], rtol=0, atol=1e-5
    )


def test_auxiliary_heads_and_image_labels():
    output, variables = shapes(create("unet", aux_heads=2, image_labels=7))
    assert [x.shape for x in output.aux_logits] == [(1, *SIZE, CLASSES)] * 2
    assert output.image_logits.shape == (1, 7)
    assert variables["params"]["aux_heads_1"]["conv"]["kernel"].shape == (3, 3, 64, CLASSES)
    output, _ = shapes(create("unet"))
    assert output.aux_logits == ()
    assert output.image_logits is None


def test_what_is_not_used_is_not_computed():
    def flops(**options):
        model = create("unet", OwnEncoder(), **options)
        variables = shapes(model)[1]
        compiled = (
            fast_jit(lambda v, x: model.apply(v, x).logits)
            .lower(variables, jnp.zeros((1, 32, 32, 3)))
            .compile()
        )
        return compiled.cost_analysis()["flops"]

    assert flops(aux_heads=2, image_labels=7) == flops()


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("upsample", UPSAMPLINGS)
def test_unet_upsamples_and_merges_as_it_is_told(upsample, merge):
    given = {"upsample": UPSAMPLINGS[upsample], "merge": MERGES[merge], "channels": (8, 8, 8, 4)}
    model = models.unet(num_classes=2, encoder=OwnEncoder(), **given)
    assert model == create(
        "unet", OwnEncoder(), 2, **given | {"upsample": upsample, "merge": merge}
    )
    output, variables = shapes(model)
    assert output.logits.shape == (1, *SIZE, 2)
    for size in [(1, 1), (5, 2), (64, 33)]:  # with the same parameters
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        assert jax.eval_shape(model.apply, variables, images).logits.shape == (1, *size, 2)
    layers = {name.split("_")[0] for name in variables["params"]["decoder"]}
    learned = {"transposed": {"TransposedConv"}, "sub_pixel": {"SubPixelConv"}}
    assert {n for n in layers if n[0].isupper()} == (
        learned.get(upsample, set()) | ({"Conv"} if merge == "add" else set())
    )
    first = variables["params"]["decoder"]["block0"]["conv1"]["conv"]["kernel"].shape[2]
    assert first == (12 if merge == "add" else 20 + 12)


@pytest.mark.parametrize(
    "option", [{"upsample": "bilinear"}, {"upsample": "transposed"}, {"merge": "add"}]
)
def test_what_unet_is_told_matters_and_can_be_trained(option):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 17, 18, 3)), jnp.float32)

    def run(**options):
        model = models.unet(num_classes=2, encoder=OwnEncoder(), channels=(8, 8, 8, 4), **options)
        variables = random_variables(shapes(model)[1])

        def loss(params):
            y = model.apply({**variables, "params": params}, images).logits
            return jnp.square(y).mean(), y

        return fast_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    known = {"upsample": UPSAMPLINGS, "merge": MERGES}
    (_, ours), gradients = run(**{k: known[k][v] for k, v in option.items()})
    (_, by_default), _ = run()
    assert jnp.abs(ours - by_default).max() > 1e-3
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


def test_the_logits_can_be_upsampled_by_a_layer_that_learns():
    model = create("fpn", OwnEncoder()).clone(upsample=UPSAMPLINGS["transposed"])
    output, variables = shapes(model)
    assert output.logits.shape == (1, *SIZE, CLASSES)
    assert variables["params"]["TransposedConv_0"]["kernel"].shape == (8, 8, CLASSES, CLASSES)


def test_every_scale_of_the_pyramid_can_be_supervised():
    model = create("multiscale_fpn", OwnEncoder(), channels=8, supervise_scales=True)
    variables = random_variables(shapes(model)[1])
    output = fast_jit(model.apply)(variables, jnp.ones((1, *SIZE, 3)))
    assert [x.shape for x in output.aux_logits] == [(1, *SIZE, CLASSES)] * 4
    np.testing.assert_allclose(output.logits, sum(output.aux_logits) / 4, rtol=0, atol=1e-5)
    assert shapes(create("multiscale_fpn"))[0].aux_logits == ()
    three = create("multiscale_fpn", encoder_options={"depth": 3}, supervise_scales=True)
    assert len(shapes(three)[0].aux_logits) == 3
