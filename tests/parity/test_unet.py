"""The original U-Net equals the same network written in torch, and the pyramid torchvision's, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import peers
from harness.encoders import fast_jit

from jaxseg.models.original_unet import OriginalUNetBody
from jaxseg.nn import FeaturePyramid

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def random_like(template, seed=0):
    rng = np.random.default_rng(seed)

    def fill(x):
        scale = np.sqrt(2 / np.prod(x.shape[:-1])) if x.ndim > 1 else 0.1
        return rng.normal(0, scale, x.shape).astype(np.float32)

    return jax.tree.map(fill, template)


def close(ours, theirs, tolerance=1e-5):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, rtol=0, atol=tolerance)


class InTorch:
    """Layers that read their weights by the path they have in jaxseg's variables."""

    def __init__(self, torch, params):
        self.torch, self.functional = torch, torch.nn.functional
        self.tensors = jax.tree.map(self.tensor, params)

    def tensor(self, x):
        x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x
        return self.torch.from_numpy(np.ascontiguousarray(x)).requires_grad_()

    def conv(self, x, layer, padding):
        return self.functional.conv2d(x, layer["kernel"], layer["bias"], padding=padding)

    def unet(self, x, levels, padding):
        functional, skips = self.functional, []

        def twice(x, name):
            for conv in ("conv1", "conv2"):
                x = functional.relu(self.conv(x, self.tensors[name][conv], padding))
            return x

        for level in range(levels):
            x = twice(functional.max_pool2d(x, 2) if level else x, f"contract{level}")
            skips.append(x)
        for level in reversed(range(levels - 1)):
            layer = self.tensors[f"up{level}"]
            kernel = layer["kernel"].transpose(0, 1)  # torch's transposed kernels: inputs first
            x = functional.conv_transpose2d(x, kernel, layer["bias"], stride=2)
            skip, (h, w) = skips[level], x.shape[2:]
            top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
            x = self.torch.cat([x, skip[:, :, top : top + h, left : left + w]], 1)
            x = twice(x, f"expand{level}")
        return self.conv(x, self.tensors["head"], 0)

    def gradients(self):
        def of(x):
            g = x.grad.numpy()
            return g.transpose(2, 3, 1, 0) if g.ndim == 4 else g

        return jax.tree.map(of, self.tensors)


@pytest.mark.parametrize(
    ("channels", "padding", "size"),
    [
        ((6, 8, 10), 0, (44, 56)),
        ((6, 8, 10, 12, 14), 0, (188, 204)),
        ((6, 8, 10, 12), 1, (24, 40)),
    ],
)
def test_original_unet_and_gradients_equal_torch(torch, channels, padding, size):
    """In float64: rounding in float32 moves ReLUs, and with them gradients."""
    with jax.enable_x64(True):
        compare_unet(torch, OriginalUNetBody(3, channels, padding, param_dtype=np.float64), size)


def compare_unet(torch, model, size):
    images = peers.images(2, *size, 2).astype(np.float64)
    logits, template = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), images
    )
    assert logits.shape == (2, size[0] - model.border, size[1] - model.border, 3)
    params = jax.tree.map(np.float64, random_like(template["params"]))
    weight = peers.images(*logits.shape, seed=1).astype(np.float64)

    @fast_jit
    @jax.value_and_grad
    def loss(params):
        return (model.apply({"params": params}, images) * weight).sum()

    theirs = InTorch(torch, params)
    expected = theirs.unet(
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), len(model.channels), model.padding
    )
    (expected * torch.from_numpy(weight.transpose(0, 3, 1, 2).copy())).sum().backward()
    y = fast_jit(model.apply)({"params": params}, images)
    assert y.dtype == np.float64
    close(y, expected.detach().numpy().transpose(0, 2, 3, 1), 1e-12)
    jax.tree.map(lambda a, b: close(a, b, 1e-12), loss(params)[1], theirs.gradients())


@pytest.mark.parametrize("sizes", [((16, 24), (8, 12), (4, 6), (2, 3)), ((13, 9), (7, 5), (4, 3))])
def test_feature_pyramid_and_gradients_equal_torchvision(torch, torchvision, sizes):
    from torchvision.ops import FeaturePyramidNetwork

    widths = (5, 6, 7, 8)[: len(sizes)]
    features = tuple(
        peers.images(2, *size, width, seed=width) for size, width in zip(sizes, widths, strict=True)
    )
    model = FeaturePyramid(9)
    template = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), features)
    params = random_like(template["params"])
    weights = [peers.images(2, *size, 9, seed=20 + i) for i, size in enumerate(sizes)]

    @fast_jit
    def run(params, features):
        def loss(params, features):
            maps = model.apply({"params": params}, features)
            return sum(jnp.sum(m * w) for m, w in zip(maps, weights, strict=True)), maps

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, features)

    (_, maps), (of_params, of_features) = run(params, features)

    def to_torch(x):
        return torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()

    theirs = FeaturePyramidNetwork(list(widths), 9)
    blocks = {"lateral": theirs.inner_blocks, "output": theirs.layer_blocks}
    for name, layer in params.items():
        block = blocks[name[:-1]][int(name[-1])][0]
        block.weight.data = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        block.bias.data = torch.from_numpy(layer["bias"])
    inputs = {str(i): to_torch(f) for i, f in enumerate(features)}
    expected = theirs(inputs)
    total = sum((expected[str(i)] * to_torch(w).detach()).sum() for i, w in enumerate(weights))
    total.backward()
    for i, (m, gradient) in enumerate(zip(maps, of_features, strict=True)):
        close(m, expected[str(i)].detach().numpy().transpose(0, 2, 3, 1))
        close(gradient, inputs[str(i)].grad.numpy().transpose(0, 2, 3, 1))
    for name, layer in of_params.items():
        block = blocks[name[:-1]][int(name[-1])][0]
        close(layer["kernel"], block.weight.grad.numpy().transpose(2, 3, 1, 0))
        close(layer["bias"], block.bias.grad.numpy())
