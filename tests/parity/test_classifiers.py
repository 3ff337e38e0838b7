"""Logits of classifiers equal those of torchvision and timm for the same weights."""

import jax
import numpy as np
import pytest
from harness import peers
from harness.encoders import fast_jit

from jaxseg import encoders
from jaxseg.models import Classifier, DenseHead, classifier, fully_convolutional, vgg_classifier

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
SLOW = pytest.mark.slow


def create(name):
    if name.startswith("vgg"):
        return vgg_classifier(encoder=encoders.create(name, ceil_mode=False))
    return classifier(encoder=encoders.create(name))


def assert_equal(logits, expected):
    assert 0.05 < expected.std() < 10
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (45, 70), (256, 224)])
def test_narrow_vgg_logits_equal_torchvision(torch, torchvision, variables_like, run_torch, size):
    theirs = torchvision.models.vgg11_bn(init_weights=False)
    linear, relu, dropout = torch.nn.Linear, torch.nn.ReLU, torch.nn.Dropout
    theirs.classifier = torch.nn.Sequential(
        *(linear(25088, 16), relu(), dropout(), linear(16, 8), relu(), dropout(), linear(8, 5))
    )
    ours = Classifier(encoders.vgg11_bn(ceil_mode=False), DenseHead((16, 8, 5), (7, 7), 0.5))
    state_dict, variables = variables_like(ours, "torchvision")
    images = peers.images(2, *size, 3)
    assert_equal(fast_jit(ours.apply)(variables, images), run_torch(theirs, state_dict, images))


@pytest.mark.parametrize("size", [(64, 45), (256, 288)])
def test_narrow_vgg_logits_equal_timm(timm, variables_like, run_torch, size):
    """On images that are larger than the window timm slides the dense layers and takes the mean."""
    layers = [4, "M", 8, "M", 8, "M", 16, "M", 16, "M"]
    theirs = timm.models.vgg.VGG(layers, num_classes=5, mlp_ratio=1 / 64)
    encoder = encoders.vgg.VGG((1, 1, 1, 1, 1), False, (4, 8, 8, 16, 16), ceil_mode=False)
    ours = Classifier(encoder, DenseHead((64, 4096, 5), (7, 7)))
    state_dict, variables = variables_like(ours, "timm")
    images = peers.images(2, *size, 3)
    expected = run_torch(theirs, state_dict, images)
    if min(size) < 224:
        return assert_equal(fast_jit(ours.apply)(variables, images), expected)
    whole, kernels = fully_convolutional(ours, variables)
    logits = fast_jit(whole.apply)(kernels, images)
    assert logits.shape == (2, 2, 3, 5)
    return assert_equal(logits.mean((1, 2)), expected)


@pytest.mark.parametrize("peer", ["timm", "torchvision"])
def test_resnet18_logits_equal_the_peer(timm, torchvision, variables_like, run_torch, peer):
    theirs = timm.create_model("resnet18") if peer == "timm" else torchvision.models.resnet18()
    ours = create("resnet18")
    state_dict, variables = variables_like(ours, peer)
    images = peers.images(2, 45, 70, 3)
    assert_equal(fast_jit(ours.apply)(variables, images), run_torch(theirs, state_dict, images))


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        pytest.param("vgg16", "torchvision", marks=SLOW),
        pytest.param("vgg16_bn", "timm", marks=SLOW),
        pytest.param("resnet50", "torchvision", marks=SLOW),
    ],
)
def test_full_size_logits_equal_the_peer(timm, torchvision, variables_like, run_torch, name, peer):
    theirs = timm.create_model(name) if peer == "timm" else getattr(torchvision.models, name)()
    ours = create(name)
    state_dict, variables = variables_like(ours, peer)
    images = peers.images(1, 64, 64, 3)
    assert_equal(fast_jit(ours.apply)(variables, images), run_torch(theirs, state_dict, images))


@pytest.mark.parametrize("name", [n for n in encoders.names() if n.startswith(("resnet", "vgg"))])
def test_number_of_parameters_is_that_of_torchvision(torch, torchvision, name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    ours = create(name)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == sum(
        p.numel() for p in theirs.parameters()
    )
