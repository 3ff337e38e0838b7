"""Features of encoders equal those of timm and torchvision for the same weights."""

import jax
import numpy as np
import pytest
from harness import peers
from harness.encoders import fast_jit, shapes

from jaxseg import encoders, pretrained
from jaxseg.pretrained.encoders import ENCODERS
from jaxseg.pretrained.weights import class_path

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def assert_equal(features, expected):
    for feature, other in zip(features, expected, strict=True):
        assert 0.05 < other.std() < 10
        np.testing.assert_allclose(feature, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", peers.TIMM_FEATURES)
def test_features_equal_timm(torch, timm, variables_like, run_torch, case):
    encoder = encoders.create(case.name, **case.options)
    options = {k: v for k, v in case.options.items() if k == "output_stride"}
    with torch.device("meta"):
        strides = timm.create_model(case.peer, features_only=True).feature_info.reduction()
    first = sum(
        stride == 1 for stride in strides
    )  # a feature as large as the image is none of ours
    indices = tuple(range(first, first + encoder.depth))
    peer = timm.create_model(case.peer, features_only=True, out_indices=indices, **options)
    state_dict, variables = variables_like(encoder, "timm")
    images = peers.images(2, *case.size, 3)
    # With features_only timm writes features_0 for features.0 where a model is one sequence.
    names = peer.state_dict()
    renamed = {k if k in names else k.replace(".", "_", 1): v for k, v in state_dict.items()}
    assert_equal(fast_jit(encoder.apply)(variables, images), run_torch(peer, renamed, images))


@pytest.mark.parametrize("name", encoders.names())
@pytest.mark.sample(12, 12)
def test_names_and_shapes_are_those_of_the_peer(torch, timm, torchvision, name):
    encoder = encoders.create(name)
    weights = ENCODERS[class_path(encoder)]
    source = "torchvision" if "torchvision" in weights.sources else "timm"
    with torch.device("meta"):
        peer = (
            getattr(torchvision.models, name)()
            if source == "torchvision"
            else timm.create_model(name)
        )
    expected = {k: tuple(v.shape) for k, v in peer.state_dict().items() if v.ndim}
    zeros = jax.tree.map(
        lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes(encoder)[1]
    )
    found = {k: v.shape for k, v in pretrained.to_torch(encoder, zeros, source=source).items()}
    ignored = pretrained.KeyMap((), weights.ignored)
    assert found == {k: shape for k, shape in expected.items() if not ignored.ignores(k)}
    assert 0 < len(expected) - len(found) < 10


@pytest.mark.parametrize(("name", "published"), pretrained.HUB.items())
def test_license_and_accuracy_are_those_of_the_peer(timm, torchvision, name, published):
    owner, _, model = name.partition("/")
    if owner != "timm":
        assert (published.license, published.top1) == (None, None)
        return
    config = timm.models.get_pretrained_cfg(model)
    assert (published.license, published.mean, published.std) == (
        config.license,
        tuple(config.mean),
        tuple(config.std),
    )
    if published.top1 is not None:
        assert model == f"{published.builder}.tv_in1k"
        weights = torchvision.models.get_model_weights(published.builder)["IMAGENET1K_V1"]
        assert published.top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]


def test_timm_classifier_fills_the_encoder(timm, variables_like):
    expected = timm.create_model("resnet18").state_dict()
    encoder = encoders.resnet18()
    state_dict = {k: v.numpy() for k, v in expected.items()}
    _, variables = variables_like(encoder, "timm", state_dict=state_dict)
    back = pretrained.to_torch(encoder, variables, source="timm")
    assert set(expected) - set(back) == {
        k for k in expected if "num_batches" in k or k.startswith("fc.")
    }
    for key, value in back.items():
        np.testing.assert_array_equal(value, state_dict[key])


def test_dilation_equals_torchvision(torch, torchvision, variables_like, run_torch):
    peer = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
    layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    getter = torchvision.models._utils.IntermediateLayerGetter(peer, layers)
    encoder = encoders.resnet50(output_stride=8)
    state_dict, variables = variables_like(encoder, "torchvision")
    images = peers.images(1, 64, 64, 3)

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.getter = getter

        def load_state_dict(self, state_dict, strict):
            return getter.load_state_dict(state_dict, strict=strict)

        def forward(self, x):
            return list(getter(x).values())

    features = fast_jit(encoder.apply)(variables, images)[1:]
    assert_equal(features, run_torch(Features(), state_dict, images))


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
@pytest.mark.parametrize("size", [(64, 32), (45, 70)])
def test_vgg_of_odd_size_equals_torchvision(
    torch, torchvision, variables_like, run_torch, name, size
):
    nn = torch.nn
    layers = getattr(torchvision.models, name)(init_weights=False).features

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = layers

        def forward(self, x):
            maps = []
            for layer in self.features:
                if isinstance(layer, nn.MaxPool2d):
                    maps.append(x)
                x = layer(x)
            return [*maps[1:], x]

    encoder = encoders.create(name, ceil_mode=size == (64, 32))
    state_dict, variables = variables_like(encoder, "torchvision")
    images = peers.images(2, *size, 3)
    features = fast_jit(encoder.apply)(variables, images)
    assert_equal(features, run_torch(Features(), state_dict, images))
