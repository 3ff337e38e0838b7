"""The paper's FCN equals the same network in torch, and FCN on a ResNet equals torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_fcn
from harness import peers
from harness.encoders import fast_jit
from torch_fcn import CLASSES, FEATURES, WIDTHS

from jaxseg import encoders, models, pretrained
from jaxseg.models.fcn_vgg import FCNVGG

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
SLOW = pytest.mark.slow
AT_ONCE = {"pool4_scale": 0.01, "pool3_scale": 0.0001}


def assert_equal(logits, expected):
    assert 0.05 < expected.std() < 10
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def nhwc(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def narrow(stride, padding=100, **fields):
    fields = {"learn_last": True, "fc_features": FEATURES} | fields
    return FCNVGG(encoders.vgg16(widths=WIDTHS), CLASSES, stride, padding, **fields)


def pair(torch, stride, padding=100, **fields):
    """The network on both sides, and random weights of every tensor that is learned."""
    ours = narrow(stride, padding, **fields)
    scales = ours.pool4_scale, ours.pool3_scale
    theirs = torch_fcn.network(torch, stride, CLASSES, WIDTHS, FEATURES, padding, scales)
    shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    state_dict = torch_fcn.weights(shapes, scales)
    return ours, theirs, state_dict


@pytest.mark.parametrize(
    ("stride", "scales", "padding", "size"),
    [
        *((stride, {}, 100, (45, 70)) for stride in (32, 16, 8)),
        (8, AT_ONCE, 1, (45, 70)),
        *(
            pytest.param(stride, scales, padding, size, marks=SLOW)
            for stride, scales in ((32, {}), (16, {}), (8, {}), (8, AT_ONCE))
            for padding in (100, 1)
            for size in ((64, 96), (1, 33), (130, 131))
        ),
    ],
)
def test_logits_equal_torch(torch, variables_like, run_torch, stride, scales, size, padding):
    ours, theirs, state_dict = pair(torch, stride, padding, **scales)
    _, variables = variables_like(ours, "torchfcn", state_dict=state_dict)
    back = pretrained.to_torch(ours, variables, source="torchfcn")
    assert set(back) == set(state_dict)
    for name, value in state_dict.items():
        np.testing.assert_array_equal(back[name], value)
    images = peers.images(2, *size, 3)
    assert_equal(
        fast_jit(ours.apply)(variables, images).logits, run_torch(theirs, state_dict, images)
    )


@pytest.mark.parametrize(
    ("stride", "padding", "learn_fusing"),
    [
        (8, 100, True),
        *(
            pytest.param(stride, padding, learn_fusing, marks=SLOW)
            for stride in (32, 16, 8)
            for padding in (100, 1)
            for learn_fusing in (True, False)
        ),
    ],
)
def test_fixed_upsampling_equals_a_bilinear_kernel_in_torch(
    torch, variables_like, run_torch, stride, padding, learn_fusing
):
    ours, theirs, state_dict = pair(
        torch, stride, padding, learn_last=False, learn_fusing=learn_fusing
    )
    for name, value in state_dict.items():
        if name.startswith("upscore") and not (
            learn_fusing and name.partition(".")[0] in ("upscore2", "upscore_pool4")
        ):
            tent = 1 - np.abs(np.arange(value.shape[2]) - value.shape[2] / 2 + 0.5) / (
                value.shape[2] / 2
            )
            state_dict[name] = np.multiply.outer(np.eye(CLASSES), np.outer(tent, tent)).astype("f")
    _, variables = variables_like(ours, "torchfcn", state_dict=state_dict)
    back = pretrained.to_torch(ours, variables, source="torchfcn")
    assert set(back) == set(state_dict)
    for name, value in state_dict.items():
        np.testing.assert_array_equal(back[name], value)
    images = peers.images(1, 45, 70, 3)
    assert_equal(
        fast_jit(ours.apply)(variables, images).logits, run_torch(theirs, state_dict, images)
    )


def test_gradients_equal_torch(torch, variables_like):
    ours, theirs, state_dict = pair(torch, 8)
    _, variables = variables_like(ours, "torchfcn", state_dict=state_dict)
    images, weight = peers.images(1, 45, 70, 3), peers.images(1, 45, 70, CLASSES, seed=1)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()})
    logits = theirs.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    (logits * torch.from_numpy(weight.transpose(0, 3, 1, 2).copy())).mean().backward()
    gradient = fast_jit(jax.grad(lambda v: (ours.apply(v, images).logits * weight).mean()))(
        variables
    )
    found = pretrained.to_torch(ours, gradient, source="torchfcn")
    for name, parameter in theirs.named_parameters():
        expected = parameter.grad.numpy()
        scale = np.abs(expected).max()
        assert scale > 0, name
        np.testing.assert_allclose(found[name] / scale, expected / scale, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [32, 8])
def test_full_size_logits_equal_torch(torch, run_torch, stride):
    theirs = torch_fcn.network(torch, stride, 21)
    shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    if stride == 32:
        counts = [np.prod(s) for name, s in shapes.items() if not name.startswith("upscore")]
        assert sum(counts) == 134_346_581
    ours = FCNVGG(encoders.vgg16(), 21, stride, learn_last=True)
    template = jax.eval_shape(ours.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    state_dict = peers.weights(shapes)
    variables = pretrained.from_torch(ours, template, state_dict, source="torchfcn")
    images = peers.images(1, 45, 70, 3)
    assert_equal(
        fast_jit(ours.apply)(variables, images).logits, run_torch(theirs, state_dict, images)
    )


def scores_in_the_middle(model, variables, images):
    """fc7's scores where fc6 sees the whole of an image of 224 pixels and no padding."""

    @fast_jit
    def run(variables, images):
        return model.apply(
            variables,
            images,
            capture_intermediates=lambda module, method: (
                method == "__call__" and module.name == "score_fr"
            ),
            mutable=["intermediates"],
        )[1]["intermediates"]["score_fr"]["__call__"][0]

    scores = run(variables, images)
    assert scores.shape[1:3] == (7, 7)
    return scores[:, 3, 3]


@pytest.mark.parametrize("narrow", [True, pytest.param(False, marks=SLOW)])
def test_fcn_of_torchvisions_vgg16_has_its_scores(torch, torchvision, run_torch, narrow):
    if narrow:
        nn, (a, b, c, d, e) = torch.nn, WIDTHS
        plan = [a, a, "M", b, b, "M", c, c, c, "M", d, d, d, "M", e, e, e, "M"]
        theirs = torchvision.models.VGG(torchvision.models.vgg.make_layers(plan), 10, False)
        theirs.classifier = nn.Sequential(
            *(nn.Linear(49 * e, FEATURES), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Dropout(), nn.Linear(FEATURES, 10)),
        )
        model = FCNVGG(encoders.vgg16(widths=WIDTHS), 10, 32, 1, fc_features=FEATURES)
    else:
        theirs = torchvision.models.vgg16(init_weights=False)
        model = models.fcn_vgg_32s(num_classes=1000, encoder=encoders.vgg16(), padding=1)
    state_dict = peers.weights({k: tuple(v.shape) for k, v in theirs.state_dict().items()})
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    variables = pretrained.from_torch(model, zeros, state_dict, source="torchvision")
    back = pretrained.to_torch(model, variables, source="torchvision")
    assert set(state_dict) - set(back) == {"classifier.6.weight", "classifier.6.bias"}
    for name, value in back.items():
        np.testing.assert_array_equal(value, state_dict[name])
    variables["params"]["score_fr"] = {
        "kernel": state_dict["classifier.6.weight"].T[None, None],
        "bias": state_dict["classifier.6.bias"],
    }
    images = peers.images(1, 224, 224, 3)
    assert_equal(
        scores_in_the_middle(model, variables, images), run_torch(theirs, state_dict, images)
    )


def of_torchvision(torchvision, blocks, aux=True):
    resnet, segmentation = torchvision.models.resnet, torchvision.models.segmentation
    dilate = [False, True, True]
    backbone = resnet.ResNet(resnet.Bottleneck, blocks, replace_stride_with_dilation=dilate)
    return segmentation.fcn._fcn_resnet(backbone, CLASSES, aux).eval()


def on_resnet(blocks, **options):
    encoder = encoders.resnet.ResNet(blocks, True, output_stride=8)
    return models.fcn(num_classes=CLASSES, encoder=encoder, **options)


@pytest.mark.parametrize(
    ("blocks", "size", "aux"),
    [
        ((1, 1, 2, 2), (45, 70), True),
        pytest.param((3, 4, 6, 3), (64, 32), False, marks=SLOW),
        pytest.param((3, 4, 6, 3), (45, 70), True, marks=SLOW),
        pytest.param((3, 4, 6, 3), (1, 33), True, marks=SLOW),
        pytest.param((3, 4, 23, 3), (45, 70), True, marks=SLOW),
    ],
)
def test_logits_equal_torchvision(torch, torchvision, variables_like, blocks, size, aux):
    theirs = of_torchvision(torchvision, blocks, aux)
    ours = on_resnet(blocks, aux_heads=int(aux))
    state_dict = peers.weights(
        {k: tuple(v.shape) for k, v in theirs.state_dict().items() if v.ndim}
    )
    _, variables = variables_like(ours, "torchvision", state_dict=state_dict)
    back = pretrained.to_torch(ours, variables, source="torchvision")
    assert set(back) == set(state_dict)
    for name, value in state_dict.items():
        np.testing.assert_array_equal(back[name], value)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)
    images = peers.images(2, *size, 3)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    output = fast_jit(ours.apply)(variables, images)
    assert_equal(output.logits, nhwc(expected["out"]))
    assert len(output.aux_logits) == int(aux)
    if aux:
        assert_equal(output.aux_logits[0], nhwc(expected["aux"]))


def test_from_torch_leaves_out_an_unused_auxiliary_head(torch, torchvision, variables_like):
    with torch.device("meta"):
        theirs = of_torchvision(torchvision, (1, 1, 1, 1)).state_dict()
    state_dict = {k: np.broadcast_to(np.float32(1), tuple(v.shape)) for k, v in theirs.items()}
    ours = on_resnet((1, 1, 1, 1), aux_heads=0)
    _, variables = variables_like(ours, "torchvision", state_dict=state_dict)
    back = pretrained.to_torch(ours, variables, source="torchvision")
    left_out = {k for k in theirs if k.startswith("aux_classifier") or "num_batches" in k}
    assert set(theirs) - set(back) == left_out


@pytest.mark.slow
def test_gradients_equal_torchvision(torch, torchvision, variables_like):
    """In float64: in float32 a deep ReLU network's gradient depends on the order of sums."""
    blocks = (1, 1, 2, 2)
    theirs, ours = of_torchvision(torchvision, blocks).double(), on_resnet(blocks)
    state_dict, variables = variables_like(ours, "torchvision")
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()}, strict=True)
    images, *weights = (
        peers.images(1, 45, 70, channels, seed=seed).astype(np.float64)
        for seed, channels in enumerate((3, CLASSES, CLASSES))
    )
    expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    sum(
        (expected[name] * torch.from_numpy(w.transpose(0, 3, 1, 2).copy())).mean()
        for name, w in zip(("out", "aux"), weights, strict=True)
    ).backward()

    def loss(params):
        output = ours.apply({**variables, "params": params}, images)
        maps = (output.logits, *output.aux_logits)
        return sum((x * w).mean() for x, w in zip(maps, weights, strict=True))

    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
        gradient = fast_jit(jax.grad(loss))(variables["params"])
        found = pretrained.to_torch(ours, {**variables, "params": gradient}, source="torchvision")
    parameters = dict(theirs.named_parameters())
    for name in (
        "backbone.conv1.weight",
        "backbone.layer3.1.conv2.weight",
        "backbone.layer4.0.downsample.1.weight",
        "classifier.0.weight",
        "classifier.4.bias",
        "aux_classifier.1.weight",
        "aux_classifier.4.weight",
    ):
        of_torch = parameters[name].grad.numpy()
        scale = np.abs(of_torch).max()
        np.testing.assert_allclose(found[name] / scale, of_torch / scale, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("depth", "count"), [(50, 35_322_218), (101, 54_314_346)])
def test_number_of_parameters_is_that_of_torchvision(torch, torchvision, depth, count):
    build = getattr(torchvision.models.segmentation, f"fcn_resnet{depth}")
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    assert sum(p.numel() for p in theirs.parameters()) == count
    ours = models.fcn(num_classes=21, encoder=encoders.create(f"resnet{depth}", output_stride=8))
    shapes = jax.eval_shape(ours.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)
    names = pretrained.to_torch(ours, zeros, source="torchvision")
    assert {k: v.shape for k, v in names.items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items() if v.ndim
    }
