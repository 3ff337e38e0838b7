"""Logits equal those of segmentation_models.pytorch for the same weights."""

import re

import jax
import numpy as np
import peers
import pytest
from peers import fast_jit

import jaxseg
from jaxseg import pretrained

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("name", "encoder", "options", "size"),
    [  # those that are slow to compile run in .ci/run
        ("unet", "resnet18", {}, (64, 96)),
        ("unet", "resnet18", {}, (45, 70)),
        pytest.param("unet", "resnet34", {}, (64, 32), marks=pytest.mark.slow),
        pytest.param("unet", "resnet50", {}, (64, 32), marks=pytest.mark.slow),
        ("unet", "resnet18", {"depth": 3}, (64, 32)),
        ("unet", "resnet18", {"output_stride": 16, "dilate_first": True}, (64, 96)),
        ("unet", "resnet18", {"in_channels": 5}, (64, 32)),
        pytest.param("unet", "vgg16", {}, (64, 32), marks=pytest.mark.slow),
        ("unet", "vgg16_bn", {}, (32, 64)),
        ("unet", "vgg11_bn", {"depth": 3}, (64, 32)),
        pytest.param("fpn", "vgg11", {}, (64, 32), marks=pytest.mark.slow),
        ("fpn", "resnet18", {}, (64, 96)),
        pytest.param("fpn", "resnet34", {}, (64, 32), marks=pytest.mark.slow),
        pytest.param("fpn", "resnet50", {}, (32, 64), marks=pytest.mark.slow),
        ("fpn", "resnet18", {"depth": 4}, (64, 32)),
    ],
)
def test_logits_equal_smp(
    segmentation_models_pytorch, variables_like, run_torch, name, encoder, options, size
):
    smp = segmentation_models_pytorch
    channels = options.get("in_channels", 3)
    depth = options.get("depth", 5)
    theirs_options = (
        {"output_stride": options["output_stride"]} if "output_stride" in options else {}
    )
    if name == "unet":
        theirs_options["decoder_channels"] = (256, 128, 64, 32, 16)[-depth:]
    elif depth == 4:  # smp upsamples its logits by 4 from stride 2 unless it is told
        theirs_options["upsampling"] = 2
    theirs = {"unet": smp.Unet, "fpn": smp.FPN}[name](
        encoder,
        encoder_weights=None,
        encoder_depth=depth,
        in_channels=channels,
        classes=4,
        **theirs_options,
    )
    ours = jaxseg.create(name, encoder=encoder, num_classes=4, encoder_options=options)
    # smp builds stages that its depth leaves unused: those have to be ignored on purpose.
    state_dict = peers.weights(
        {k: tuple(v.shape) for k, v in theirs.state_dict().items() if v.ndim}
    )
    _, variables = variables_like(ours, "smp", channels, state_dict)
    back = pretrained.to_torch(ours, variables)
    for key, value in state_dict.items():
        if key in back:
            np.testing.assert_array_equal(back[key], value)
        elif encoder.startswith("vgg"):
            assert depth == 3
            assert int(key.split(".")[2]) >= 22
        else:
            assert int(re.fullmatch(r"encoder\.layer(\d)\..*", key)[1]) >= depth
    images = peers.images(2, *size, channels)
    logits = fast_jit(ours.apply)(variables, images).logits
    expected = run_torch(theirs, state_dict, images)
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_image_head_equals_smp(segmentation_models_pytorch, variables_like, run_torch):
    theirs = segmentation_models_pytorch.Unet(
        "resnet18", encoder_weights=None, classes=2, aux_params={"classes": 7, "dropout": 0.5}
    )
    ours = jaxseg.create("unet", encoder="resnet18", num_classes=2, image_labels=7)
    state_dict, variables = variables_like(ours, "smp")
    images = peers.images(2, 32, 32, 3)
    output = fast_jit(ours.apply)(variables, images)
    logits, labels = run_torch(theirs, state_dict, images)
    np.testing.assert_allclose(output.logits, logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(output.image_logits, labels, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "fpn"])
@pytest.mark.parametrize(
    "encoder", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19_bn"]
)
def test_as_many_parameters_as_smp(torch, segmentation_models_pytorch, name, encoder):
    theirs = {"unet": "Unet", "fpn": "FPN"}[name]
    with torch.device("meta"):
        theirs = getattr(segmentation_models_pytorch, theirs)(encoder, encoder_weights=None)
    ours = jaxseg.create(name, encoder=encoder, num_classes=1)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == sum(
        p.numel() for p in theirs.parameters()
    )
