"""`jaxseg.create`: names, options, types and errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import shapes, variants
from harness.models import OwnEncoder, create

import jaxseg
from jaxseg import encoders, models
from jaxseg.errors import InputError
from jaxseg.nn import Head


def own_unet(*, num_classes, encoder, width=8):
    """A user's builder."""
    channels = (width,) * len(encoder.strides)
    return models.unet(num_classes=num_classes, encoder=encoder, channels=channels)


@pytest.mark.parametrize("name", models.names())
def test_create_equals_the_builder(name):
    if models.takes_encoder(name):
        encoder = next(each for each in encoders.names() if models.accepts_encoder(name, each))
        expected = getattr(models, name)(num_classes=2, encoder=encoders.create(encoder))
    else:
        encoder, expected = None, getattr(models, name)(num_classes=2)
    assert create(name, encoder, 2) == expected


def test_create_with_a_path_calls_a_users_builder():
    model = create(f"{__name__}:own_unet", OwnEncoder(), 2, width=4)
    assert model == own_unet(num_classes=2, encoder=OwnEncoder(), width=4)
    with pytest.raises(
        InputError, match=r"unknown option of model .* 'widht'; did you mean 'width"
    ):
        create(f"{__name__}:own_unet", OwnEncoder(), 2, widht=4)


def test_takes_and_accepts_encoder_follow_the_builder():
    assert models.takes_encoder("unet")
    assert not models.takes_encoder("original_unet")
    assert all(models.accepts_encoder("unet", encoders.resnet18(depth=d)) for d in range(1, 6))
    assert not models.accepts_encoder("fcn_8s", encoders.resnet18(depth=4))
    assert not models.accepts_encoder("original_unet", "resnet18")
    with pytest.raises(InputError, match="unknown model 'unett'"):
        models.takes_encoder("unett")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "bfloat16"])
def test_dtype_reaches_encoder_decoder_and_head(dtype):
    by_option = create("unet", dtype=dtype)
    assert by_option.encoder.dtype == by_option.decoder.dtype == by_option.head.dtype == dtype
    by_encoder = create("unet", encoder_options={"dtype": dtype})
    assert by_option == by_encoder
    output, variables = shapes(by_option)
    assert output.logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    mixed = create("unet", variants()["resnet18"], dtype=dtype)
    assert shapes(mixed)[0].logits.dtype == jnp.float32
    assert mixed.encoder.dtype is None


def test_float64_reaches_logits_and_parameters():
    types = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    with jax.enable_x64(True):
        model = create("unet", variants()["resnet18"].clone(**types))
        output, variables = shapes(model, (1, 8, 8, 3), jnp.float64)
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
        (
            lambda: create("fcn_vgg_8s", "vgg11", encoder_options={"depth": 4}),
            "has depth=4, output_stride",
        ),
        (
            lambda: create("fcn_vgg_8s", "vgg11", encoder_options={"ceil_mode": False}),
            "ceil_mode=False",
        ),
        (
            lambda: create("fcn_vgg_32s", "vgg11", padding=50),
            "padding=50: 100 as in the paper, or 1",
        ),
        (lambda: create("deeplab_v3", rates=()), "rates=(): ASPP needs at least one rate"),
        (lambda: create("deeplab_v3_plus", rates=(6, 0)), "rates=(6, 0): ASPP needs"),
        (
            lambda: create("deeplab_v3_plus", encoder_options={"depth": 2}),
            "one of stride 4 before it, but the encoder's strides are 2, 4",
        ),
        (lambda: create("fcn", aux_heads=5), "aux_heads=5: with 5 features there can be 0 to 4"),
        (lambda: create("fcn", encoder_options={"depth": 1}), "aux_heads=1: with 1 features"),
        (lambda: create("segnet", "resnet18"), "the encoder is a ResNet: SegNet unpools"),
        (
            lambda: create("segnet", "vgg11_bn", encoder_options={"output_stride": 16}),
            "depth=5 and output_stride=16",
        ),
        (
            lambda: create("segnet", "vgg11_bn", encoder_options={"depth": 4}),
            "the encoder has depth=4",
        ),
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
        (lambda: create("original_unet", None, channels=()), "channels=(): at least one level"),
        (lambda: create("original_unet", None, num_classes=0), "num_classes=0"),
    ],
)
def test_impossible_or_unknown_option_is_named(build, message):
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
def test_images_that_do_not_fit_are_named(images, message):
    model = create("unet")
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)


def test_auxiliary_heads_without_maps_are_named():
    fpn = create("fpn")
    with pytest.raises(InputError, match="1 auxiliary heads, but FPN has 0 maps for them"):
        shapes(fpn.clone(aux_heads=(Head(2),)))
