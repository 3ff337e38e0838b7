"""Convolutions, normalizations and blocks equal those of torch and timm, forward and backward."""

import inspect
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from harness.encoders import fast_jit

from jaxseg.nn import (
    Conv,
    ConvNorm,
    DropPath,
    GroupNorm,
    LayerNorm,
    LayerScale,
    SeparableConv,
    SqueezeExcite,
)

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CHANNELS = 8
CONV = {"weight": "kernel", "bias": "bias"}
NORM = {"weight": "scale", "bias": "bias"}
CONV_NORM = {"conv.weight": "conv/kernel", "bn.weight": "norm/scale", "bn.bias": "norm/bias"}


def conv_case(torch_options, **options):
    return (
        lambda: Conv(12, **options),
        lambda torch, timm: torch.nn.Conv2d(CHANNELS, 12, **torch_options),
        CONV if torch_options.get("bias", True) else {"weight": "kernel"},
    )


CASES = {
    # our module, the peer's, the names of its parameters and ours
    "conv": conv_case({"kernel_size": 3, "padding": 1}),
    "conv, stride": conv_case({"kernel_size": 3, "stride": 2, "padding": 1}, stride=2),
    "conv, dilation": conv_case({"kernel_size": 3, "dilation": 2, "padding": 2}, dilation=2),
    "conv, stem": conv_case(
        {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
        kernel_size=7,
        stride=2,
        use_bias=False,
    ),
    "conv, patches": conv_case({"kernel_size": 4, "stride": 4}, kernel_size=4, stride=4, padding=0),
    "conv, oblong": conv_case({"kernel_size": (1, 5), "padding": (0, 2)}, kernel_size=(1, 5)),
    "conv, padding": conv_case({"kernel_size": 3, "padding": (3, 0)}, padding=(3, 0)),
    "conv, groups": conv_case({"kernel_size": 3, "padding": 1, "groups": 4}, groups=4),
    "depthwise": (
        lambda: Conv(2 * CHANNELS, 5, stride=2, groups=CHANNELS),
        lambda torch, timm: torch.nn.Conv2d(
            CHANNELS, 2 * CHANNELS, 5, 2, padding=2, groups=CHANNELS
        ),
        CONV,
    ),
    "conv norm": (
        lambda: ConvNorm(12, stride=2),
        lambda torch, timm: timm.layers.ConvNormAct(CHANNELS, 12, 3, 2),
        CONV_NORM,
    ),
    "conv norm, silu": (
        lambda: ConvNorm(12, 1, activation=nn.silu),
        lambda torch, timm: timm.layers.ConvNormAct(CHANNELS, 12, act_layer=torch.nn.SiLU),
        CONV_NORM,
    ),
    "conv norm, no activation": (
        lambda: ConvNorm(12, activation=None),
        lambda torch, timm: timm.layers.ConvNormAct(CHANNELS, 12, 3, apply_act=False),
        CONV_NORM,
    ),
    "conv norm, no normalization": (
        lambda: ConvNorm(12, norm=None),
        lambda torch, timm: torch.nn.Sequential(
            torch.nn.Conv2d(CHANNELS, 12, 3, padding=1), torch.nn.ReLU()
        ),
        {"0.weight": "conv/kernel", "0.bias": "conv/bias"},
    ),
    "conv norm, groups": (
        lambda: ConvNorm(
            12, norm=partial(GroupNorm, 3), activation=partial(nn.gelu, approximate=False)
        ),
        lambda torch, timm: torch.nn.Sequential(
            torch.nn.Conv2d(CHANNELS, 12, 3, padding=1, bias=False),
            torch.nn.GroupNorm(3, 12),
            torch.nn.GELU(),
        ),
        {"0.weight": "conv/kernel", "1.weight": "norm/scale", "1.bias": "norm/bias"},
    ),
    "group norm": (
        lambda: GroupNorm(4),
        lambda torch, timm: torch.nn.GroupNorm(4, CHANNELS),
        NORM,
    ),
    "layer norm": (
        lambda: LayerNorm(epsilon=1e-6),
        lambda torch, timm: timm.layers.LayerNorm2d(CHANNELS),
        NORM,
    ),
    "separable conv": (
        lambda: SeparableConv(12, stride=2),
        lambda torch, timm: timm.layers.SeparableConvNormAct(CHANNELS, 12, stride=2),
        {
            "conv_dw.weight": "depthwise/kernel",
            "conv_pw.weight": "pointwise/conv/kernel",
            "bn.weight": "pointwise/norm/scale",
            "bn.bias": "pointwise/norm/bias",
        },
    ),
    "squeeze excite": (
        lambda: SqueezeExcite(4),
        lambda torch, timm: timm.layers.SqueezeExcite(CHANNELS, rd_channels=4),
        {
            "fc1.weight": "reduce/kernel",
            "fc1.bias": "reduce/bias",
            "fc2.weight": "expand/kernel",
            "fc2.bias": "expand/bias",
        },
    ),
    "squeeze excite, MobileNetV3": (
        lambda: SqueezeExcite(4, gate=nn.hard_sigmoid),
        # torch's own hard sigmoid multiplies gradients by 1/6 in float32
        lambda torch, timm: timm.layers.SqueezeExcite(
            CHANNELS, rd_channels=4, gate_layer=timm.layers.activations.HardSigmoid
        ),
        {
            "fc1.weight": "reduce/kernel",
            "fc1.bias": "reduce/bias",
            "fc2.weight": "expand/kernel",
            "fc2.bias": "expand/bias",
        },
    ),
    "layer scale": (
        lambda: LayerScale(),
        lambda torch, timm: timm.layers.LayerScale2d(CHANNELS),
        {"gamma": "scale"},
    ),
}


def to_ours(tensor):
    array = tensor.detach().numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def to_torch(torch, x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def both_sides(torch, timm, case, dtype):
    """Output, gradient of the input and gradients of the parameters, ours and the peer's, in training."""
    make, make_peer, names = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 12, CHANNELS)).astype(dtype)
    peer = make_peer(torch, timm).to(getattr(torch, dtype)).train()
    for parameter in peer.parameters():
        parameter.data = torch.from_numpy(rng.normal(size=parameter.shape).astype(dtype))
    assert set(names) == {name for name, _ in peer.named_parameters()}
    theirs_in = to_torch(torch, x).requires_grad_()
    expected = peer(theirs_in)
    weight = rng.normal(size=np.moveaxis(np.empty(expected.shape), 1, -1).shape).astype(dtype)
    (expected * to_torch(torch, weight)).sum().backward()

    module, tensors = make().clone(param_dtype=dtype), dict(peer.named_parameters())
    params = {name: to_ours(tensors[theirs]) for theirs, name in names.items()}
    train = {"train": True} if "train" in inspect.signature(module.__call__).parameters else {}

    @fast_jit
    def run(params, x):
        def of(params, x):
            tree = unflatten_dict(params, sep="/")
            state = module.init(jax.random.key(0), x, **({"train": False} if train else {}))
            y, _ = module.apply(state | {"params": tree}, x, **train, mutable=["batch_stats"])
            return (y * weight).sum(), y

        (_, y), gradients = jax.value_and_grad(of, (0, 1), has_aux=True)(params, x)
        return y, gradients

    y, (of_params, of_x) = run(params, x)
    made = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    assert {k: v.shape for k, v in flatten_dict(made, sep="/").items()} == {
        k: v.shape for k, v in params.items()
    }
    gradients = {name: (of_params[name], to_ours(tensors[n].grad)) for n, name in names.items()}
    return (
        (y, np.moveaxis(expected.detach().numpy(), 1, -1)),
        {"input": (of_x, np.moveaxis(theirs_in.grad.numpy(), 1, -1)), **gradients},
    )


@pytest.mark.parametrize("case", CASES)
def test_forward_in_float32_equals_peer(torch, timm, case):
    (ours, theirs), _ = both_sides(torch, timm, case, "float32")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("case", CASES)
def test_gradients_in_float64_equal_peer(torch, timm, case):
    with jax.enable_x64(True):
        (ours, theirs), gradients = both_sides(torch, timm, case, "float64")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())
    for name, (ours, theirs) in gradients.items():
        scale = np.abs(theirs).max()
        assert scale > 0 or name == "input", name
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * scale, err_msg=name)


def test_drop_path_with_the_same_mask_equals_timm(torch, timm, monkeypatch):
    x = np.random.default_rng(0).normal(size=(16, 2, 3, 4)).astype(np.float32)
    rngs = {"dropout": jax.random.key(0)}
    y = np.asarray(DropPath(0.4).apply({}, jnp.asarray(x), train=True, rngs=rngs))
    kept = torch.from_numpy((y != 0).any((1, 2, 3)).astype(np.float32).reshape(-1, 1, 1, 1))
    assert 0 < kept.sum() < len(x)
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda self, p: self.copy_(kept))
    expected = timm.layers.DropPath(0.4).train()(to_torch(torch, x)).numpy()
    np.testing.assert_allclose(y, np.moveaxis(expected, 1, -1), rtol=1e-6)
