"""Features equal those of timm and torchvision for the same weights."""

import jax
import numpy as np
import peers
import pytest
from peers import fast_jit

from jaxseg import encoders, pretrained

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet18", {}, (45, 70)),
        ("resnet18", {"output_stride": 16}, (64, 64)),
        ("resnet18", {"output_stride": 8, "depth": 4}, (64, 64)),
        pytest.param("resnet34", {}, (64, 32), marks=SLOW),
        pytest.param("resnet50", {}, (64, 32), marks=SLOW),
        ("resnet50", {"output_stride": 8}, (45, 70)),
        pytest.param("resnet101", {}, (64, 64), marks=SLOW),
        pytest.param("resnet152", {}, (64, 64), marks=SLOW),
    ],
)
def test_features_equal_timm(timm, variables_like, run_torch, name, options, size):
    ours = encoders.create(name, **options)
    theirs = timm.create_model(
        name,
        features_only=True,
        output_stride=ours.output_stride,
        out_indices=tuple(range(ours.depth)),
    )
    state_dict, variables = variables_like(ours, "timm")
    images = peers.images(2, *size, 3)
    features = fast_jit(ours.apply)(variables, images)
    for mine, yours in zip(features, run_torch(theirs, state_dict, images), strict=True):
        assert 0.05 < yours.std() < 10
        np.testing.assert_allclose(mine, yours, rtol=0, atol=1e-4)


def test_a_whole_timm_classifier_fills_the_encoder(timm, variables_like):
    theirs = timm.create_model("resnet18").state_dict()
    ours = encoders.resnet18()
    _, variables = variables_like(
        ours, "timm", state_dict={k: v.numpy() for k, v in theirs.items()}
    )
    back = pretrained.to_torch(ours, variables, source="timm")
    assert set(theirs) - set(back) == {
        k for k in theirs if "num_batches" in k or k.startswith("fc.")
    }
    for key, value in back.items():
        np.testing.assert_array_equal(value, theirs[key].numpy())


def test_dilation_equals_torchvision(torchvision, variables_like, run_torch):
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
    layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    getter = torchvision.models._utils.IntermediateLayerGetter(theirs, layers)
    ours = encoders.resnet50(output_stride=8)
    state_dict, variables = variables_like(ours, "torchvision")
    images = peers.images(1, 64, 64, 3)
    features = fast_jit(ours.apply)(variables, images)[1:]

    class Features(peers.load("torch").nn.Module):
        def __init__(self):
            super().__init__()
            self.getter = getter

        def load_state_dict(self, state_dict, strict):
            return getter.load_state_dict(state_dict, strict=strict)

        def forward(self, x):
            return list(getter(x).values())

    for mine, yours in zip(features, run_torch(Features(), state_dict, images), strict=True):
        np.testing.assert_allclose(mine, yours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
@pytest.mark.parametrize("size", [(64, 32), (45, 70)])
def test_vgg_equals_torchvision(torchvision, variables_like, run_torch, name, size):
    nn = peers.load("torch").nn
    theirs = getattr(torchvision.models, name)(init_weights=False).features

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = theirs

        def forward(self, x):
            maps = []
            for layer in self.features:
                if isinstance(layer, nn.MaxPool2d):
                    maps.append(x)
                x = layer(x)
            return [*maps[1:], x]

    ours = encoders.create(name, ceil_mode=size == (64, 32))
    state_dict, variables = variables_like(ours, "torchvision")
    images = peers.images(2, *size, 3)
    features = fast_jit(ours.apply)(variables, images)
    for mine, yours in zip(features, run_torch(Features(), state_dict, images), strict=True):
        assert 0.05 < yours.std() < 10
        np.testing.assert_allclose(mine, yours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("depth", [1, *(pytest.param(depth, marks=SLOW) for depth in (2, 3, 4)), 5])
def test_vgg_equals_timm(timm, variables_like, run_torch, depth):
    theirs = timm.create_model(
        "vgg11_bn", features_only=True, out_indices=tuple(range(1, depth + 1))
    )
    ours = encoders.vgg11_bn(depth=depth)
    state_dict = peers.weights(
        {k.replace("_", ".", 1): v.shape for k, v in theirs.state_dict().items() if v.ndim}
    )
    _, variables = variables_like(ours, "timm", state_dict=state_dict)
    images = peers.images(1, 32, 64, 3)
    features = fast_jit(ours.apply)(variables, images)
    # Its features_only form writes features_0 for features.0.
    named = {k.replace(".", "_", 1): v for k, v in state_dict.items()}
    for mine, yours in zip(features, run_torch(theirs, named, images), strict=True):
        assert 0.05 < yours.std() < 10
        np.testing.assert_allclose(mine, yours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in encoders.names() if n.startswith("vgg")])
def test_every_vgg_has_the_weights_of_torchvision(torch, torchvision, name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)().state_dict()
    ours = encoders.create(name)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)
    state_dict = pretrained.to_torch(ours, zeros, source="torchvision")
    assert {k: v.shape for k, v in state_dict.items()} == {
        k: tuple(v.shape) for k, v in theirs.items() if v.ndim and k.startswith("features.")
    }
