"""The same comparisons against stored results, for where torch is not installed."""

from functools import partial

import make_references
import numpy as np
import peers
import pytest

import jaxseg
from jaxseg import encoders
from jaxseg.nn import bilinear, nearest


def stored(name):
    with np.load(make_references.FOLDER / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", make_references.MODELS)
def test_logits_equal_those_of_smp(variables_like, name):
    model = jaxseg.create(name, encoder="resnet18", num_classes=5)
    _, variables = variables_like(model, "smp")
    logits = peers.fast_jit(model.apply)(variables, peers.images(*make_references.IMAGES)).logits
    expected = stored(name)["logits"]
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(make_references.part_of_logits(logits), expected, rtol=0, atol=1e-4)


def test_features_equal_those_of_timm(variables_like):
    encoder = encoders.resnet50(output_stride=16)
    _, variables = variables_like(encoder, "timm")
    features = peers.fast_jit(encoder.apply)(variables, peers.images(*make_references.IMAGES))
    for feature, expected in zip(features, stored("resnet50").values(), strict=True):
        assert 0.05 < expected.std() < 10
        np.testing.assert_allclose(
            make_references.part_of_feature(feature), expected, rtol=0, atol=1e-4
        )


def test_resizing_equals_that_of_torch():
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
