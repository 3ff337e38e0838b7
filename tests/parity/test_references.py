"""The same comparisons against stored results, for where torch is not installed."""

from functools import partial

import make_references
import numpy as np
import pytest
import torch_fcn
from harness import peers
from harness.encoders import fast_jit

import jaxseg
from jaxseg import encoders, models
from jaxseg.models.fcn_vgg import FCNVGG
from jaxseg.nn import bilinear, nearest


def stored(name):
    with np.load(make_references.FOLDER / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", make_references.MODELS)
@pytest.mark.sample(1)
def test_logits_equal_the_stored_ones_of_smp(variables_like, name):
    model = jaxseg.create(name, encoder="resnet18", num_classes=5)
    _, variables = variables_like(model, "smp")
    logits = fast_jit(model.apply)(variables, peers.images(*make_references.IMAGES)).logits
    expected = stored(name)["logits"]
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(make_references.part_of_logits(logits), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", torch_fcn.SCALES)
@pytest.mark.sample(1)
def test_logits_equal_the_stored_ones_of_the_fcn_paper(variables_like, shapes_of, name):
    scales, stride = torch_fcn.SCALES[name], int(name.partition("s")[0])
    encoder = encoders.vgg16(widths=torch_fcn.WIDTHS)
    options = dict(zip(("pool4_scale", "pool3_scale"), map(float, scales), strict=True))
    options |= {"learn_last": True, "fc_features": torch_fcn.FEATURES}
    model = FCNVGG(encoder, torch_fcn.CLASSES, stride, **options)
    state_dict = torch_fcn.weights(shapes_of(model, "torchfcn"), scales)
    _, variables = variables_like(model, "torchfcn", state_dict=state_dict)
    logits = fast_jit(model.apply)(variables, peers.images(*make_references.IMAGES)).logits
    expected = stored("fcn_vgg")[name]
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(make_references.part_of_logits(logits), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_logits_equal_the_stored_ones_of_torchvision(variables_like):
    encoder = encoders.resnet.ResNet(make_references.BLOCKS, True, output_stride=8)
    model = models.fcn(num_classes=5, encoder=encoder)
    _, variables = variables_like(model, "torchvision")
    output = fast_jit(model.apply)(variables, peers.images(*make_references.IMAGES))
    expected = stored("fcn")
    for logits, name in ((output.logits, "logits"), (output.aux_logits[0], "aux")):
        assert 0.1 < expected[name].std() < 10
        np.testing.assert_allclose(
            make_references.part_of_logits(logits), expected[name], rtol=0, atol=1e-4
        )


@pytest.mark.slow
def test_features_equal_the_stored_ones_of_timm(variables_like):
    encoder = encoders.resnet50(output_stride=16)
    _, variables = variables_like(encoder, "timm")
    features = fast_jit(encoder.apply)(variables, peers.images(*make_references.IMAGES))
    for feature, expected in zip(features, stored("resnet50").values(), strict=True):
        assert 0.05 < expected.std() < 10
        np.testing.assert_allclose(
            make_references.part_of_feature(feature), expected, rtol=0, atol=1e-4
        )


def test_resizing_equals_the_stored_one_of_torch():
    functions = {
        "nearest": nearest,
        "half_pixel": bilinear,
        "corners": partial(bilinear, align_corners=True),
    }
    x = peers.images(1, *make_references.RESIZES["x"], 2)
    expected = stored("resize")
    assert len(expected) == 12
    for convention, resize in functions.items():
        for size in make_references.RESIZES["sizes"]:
            y = expected[f"{convention}_{size[0]}x{size[1]}"]
            np.testing.assert_allclose(resize(x, size), y, rtol=0, atol=1e-5)
