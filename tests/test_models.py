"""One tester for every network: shapes, sizes, options, gradients, types."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import encoders, models
from jaxseg.decoders import FPN
from jaxseg.errors import InputError
from jaxseg.nn import MERGES, UPSAMPLINGS, Head

VGG_DENSE = 14_723_136 + (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096
NETWORKS = {  # parameters with ResNet-34 (those on a VGG: VGG-16) and one class; those of U-Net and FPN are smp's
    "fcn_32s": 21_284_672 + 512 + 1,
    "fcn_16s": 21_284_672 + 512 + 256 + 2 + 16,
    "fcn_8s": 21_284_672 + 512 + 256 + 128 + 3 + 32,
    "fcn_vgg_32s": VGG_DENSE + 4096 + 1,
    "fcn_vgg_16s": VGG_DENSE + 4096 + 512 + 2 + 16,
    "fcn_vgg_8s": VGG_DENSE + 4096 + 512 + 256 + 3 + 32,
    "fcn_vgg_8s_at_once": VGG_DENSE + 4096 + 512 + 256 + 3 + 32,
    "fcn": 21_284_672 + (9 * 512 + 2 + 1) * 128 + (9 * 256 + 2 + 1) * 64 + 2,
    "unet": 24_436_369,
    "fpn": 23_155_393,
    "multiscale_fpn": 21_284_672 + 4 * (9 * 256 + 1) * 256 + (960 + 4) * 256 + 590_080 + 257,
    "segnet": 29_443_585,
    "original_unet": 31_031_745,
    "original_unet_padded": 31_031_745,
}
SLOW = (
    *("fcn_32s", "fcn_16s", "fcn_vgg_32s", "fcn_vgg_16s", "fcn_vgg_8s_at_once"),
    *("multiscale_fpn", "original_unet_padded"),
)
"""Those that are run by `-m slow` alone: they are made of what others are made of."""
ON_VGG = ("fcn_vgg_32s", "fcn_vgg_16s", "fcn_vgg_8s", "fcn_vgg_8s_at_once", "segnet")
NARROW = {name: {"fc_features": 32} for name in ON_VGG if name.startswith("fcn")}
WITHOUT_ENCODER = {  # and the options that make them small
    "original_unet": {"channels": (6, 8, 12)},
    "original_unet_padded": {"channels": (6, 8, 12, 16)},
}
ON_ANY_ENCODER = tuple(n for n in NETWORKS if n not in (*ON_VGG, *WITHOUT_ENCODER))
SIZE = (33, 47)
CLASSES = 3


class OwnEncoder(nn.Module):
    """What a user might write: it starts at stride 4, and its numbers of channels are its own."""

    @property
    def strides(self):
        return 4, 8, 16, 32

    @property
    def channels(self):
        return 6, 10, 12, 20

    @nn.compact
    def __call__(self, images, *, train=False):
        features = []
        for i, channels in enumerate(self.channels):
            stride = 4 if i == 0 else 2
            images = nn.Conv(channels, (3, 3), strides=stride, padding=1)(images)
            features.append(images)
        return tuple(features)


def create(name, encoder=None, num_classes=CLASSES, **options):
    if name in WITHOUT_ENCODER:
        return jaxseg.create(name, num_classes=num_classes, **options)
    encoder = encoder or ("vgg11_bn" if name in ON_VGG else "resnet18")
    return jaxseg.create(name, encoder=encoder, num_classes=num_classes, **options)


def shapes(model, images=(1, *SIZE, 3), **options):
    """The output's and the variables' shapes."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(lambda x: model.init_with_output(rngs, x, **options), jnp.zeros(images))


def random_variables(template, seed=0):
    """Values that keep activations near one and leave no leaf at zero."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        if len(x.shape) > 1:
            values = rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape)
        elif path[-1].key in ("scale", "var"):
            values = rng.uniform(0.3, 1.0, x.shape)
        else:
            values = rng.normal(0, 0.1, x.shape)
        return jnp.asarray(values, x.dtype)

    return jax.tree_util.tree_map_with_path(fill, template)


def fast_jit(function):
    """Small shapes run once: what counts is the time to compile."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def small(name="unet", **fields):
    """The smallest encoder that the network stands on."""
    if name in ON_VGG:
        return encoders.VGG((1, 1, 1, 1, 1), True, (8, 12, 16, 20, 24), **fields)
    return encoders.ResNet((1, 1, 1, 1), **fields)


def small_model(name, num_classes=CLASSES, **fields):
    """The network on its smallest encoder, or small by itself."""
    if name in WITHOUT_ENCODER:
        fields.pop("in_channels", None)  # they take what comes
        return create(name, None, num_classes, **WITHOUT_ENCODER[name], **fields)
    return create(name, small(name, **fields), num_classes, **NARROW.get(name, {}))


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


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "bfloat16"])
def test_types_of_the_whole_model(dtype):
    by_option = create("unet", dtype=dtype)
    assert by_option.encoder.dtype == by_option.decoder.dtype == by_option.head.dtype == dtype
    by_encoder = create("unet", encoder_options={"dtype": dtype})
    assert by_option == by_encoder
    output, variables = shapes(by_option)
    assert output.logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    mixed = create("unet", small(), dtype=dtype)
    assert shapes(mixed)[0].logits.dtype == jnp.float32
    assert mixed.encoder.dtype is None


def test_float64():
    with jax.enable_x64(True):
        model = create("unet", small(dtype=jnp.float64, param_dtype=jnp.float64))
        output, variables = jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x),
            jnp.zeros((1, 8, 8, 3), jnp.float64),
        )
        assert output.logits.dtype == jnp.float64
        assert variables["params"]["head"]["conv"]["kernel"].dtype == jnp.float64


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: create("unett"), "unknown model 'unett'; did you mean 'unet'"),
        (lambda: create("unet", "resnet43"), "unknown encoder 'resnet43'; did you mean 'resnet34'"),
        (
            lambda: create("unet", chanels=(1,)),
            "unknown option of model 'unet' 'chanels'; did you mean 'channels'",
        ),
        (lambda: create("unet", encoder_options={"dept": 3}), "did you mean 'depth'"),
        (
            lambda: create("unet", OwnEncoder(), encoder_options={"depth": 3}),
            "with an encoder that is a module",
        ),
        (
            lambda: create("unet", nn.Dense(3)),
            "an encoder is a Linen module with the properties strides and channels",
        ),
        (lambda: create("unet", num_classes=0), "num_classes=0: 1 stands for one sigmoid"),
        (lambda: create("unet", channels=(8, 8)), "channels=(8, 8): the encoder has 5 features"),
        (lambda: create("unet", aux_heads=5), "aux_heads=5: with 5 features there can be 0 to 4"),
        (lambda: create("fpn", segmentation_channels=48), "segmentation_channels=48"),
        (
            lambda: create("fcn_8s", encoder_options={"output_stride": 16}),
            "FCN-8s sums features of strides 8, 16, 32",
        ),
        (lambda: create("fcn_32s", encoder_options={"depth": 4}), "the encoder's are 2, 4, 8, 16"),
        (lambda: create("fcn_vgg_8s", "resnet18"), "the encoder is a ResNet: the paper's FCN"),
        (lambda: create("fcn_vgg_8s", encoder_options={"depth": 4}), "has depth=4, output_stride"),
        (lambda: create("fcn_vgg_8s", encoder_options={"ceil_mode": False}), "ceil_mode=False"),
        (lambda: create("fcn_vgg_32s", padding=50), "padding=50: 100 as in the paper, or 1"),
        (lambda: create("fcn", aux_heads=5), "aux_heads=5: with 5 features there can be 0 to 4"),
        (lambda: create("fcn", encoder_options={"depth": 1}), "aux_heads=1: with 1 features"),
        (lambda: create("segnet", "resnet18"), "the encoder is a ResNet: SegNet unpools"),
        (
            lambda: create("segnet", encoder_options={"output_stride": 16}),
            "depth=5 and output_stride=16",
        ),
        (lambda: create("segnet", encoder_options={"depth": 4}), "the encoder has depth=4"),
        (lambda: models.unet(num_classes=2, encoder="resnet18"), "a builder takes a module"),
        (lambda: create("unet", upsample="bilinera"), "unknown upsample 'bilinera'; did you mean"),
        (lambda: create("unet", merge="sum"), "unknown merge 'sum'. Known: add, concatenate"),
        (
            lambda: jaxseg.create("unet", num_classes=2),
            "model 'unet' stands on an encoder: name one of resnet18",
        ),
        (
            lambda: jaxseg.create("original_unet", num_classes=2, encoder="resnet18"),
            "model 'original_unet' has no encoder to choose: leave out encoder='resnet18'",
        ),
        (
            lambda: jaxseg.create("original_unet", num_classes=2, encoder_options={"depth": 3}),
            "model 'original_unet' has no encoder to choose",
        ),
        (lambda: create("original_unet", channels=()), "channels=(): at least one level"),
        (lambda: create("original_unet", num_classes=0), "num_classes=0"),
    ],
)
def test_wrong_options_are_named(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((1, 8, 8, 3), np.uint8),
            "images of type uint8: a model takes floating point images",
        ),
        (
            np.zeros((8, 8, 3), np.float32),
            r"images of shape \(8, 8, 3\): a model takes \[N, H, W, C\]",
        ),
        (np.zeros((1, 8, 8, 4), np.float32), "have 4 channels, but the encoder has in_channels=3"),
    ],
)
def test_wrong_images_are_named(images, message):
    model = create("unet")
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)


def test_too_many_auxiliary_heads_are_named():
    fpn = create("fpn")
    with pytest.raises(InputError, match="1 auxiliary heads, but FPN has 0 maps for them"):
        shapes(fpn.clone(aux_heads=(Head(2),)))


def test_names():
    assert models.names() == list(NETWORKS)
    for name in models.names():
        encoder = encoders.vgg11_bn() if name in ON_VGG else encoders.resnet18()
        options = {} if name in WITHOUT_ENCODER else {"encoder": encoder}
        assert models.takes_encoder(name) == bool(options)
        assert create(name) == getattr(models, name)(num_classes=CLASSES, **options)
