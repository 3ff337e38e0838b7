"""SegNet equals the same network written in torch, with `max_pool2d`'s indices and `max_unpool2d`."""

import jax
import numpy as np
import pytest
from harness import peers
from harness.encoders import fast_jit

from jaxseg import encoders, pretrained
from jaxseg.models.segnet import SegNet

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def in_torch(torch, params, stats, images):
    """Logits of the network, layer by layer from the variables themselves."""
    functional = torch.nn.functional

    def conv(x, layer):
        kernel = torch.from_numpy(np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1)))
        return functional.conv2d(x, kernel, torch.from_numpy(np.asarray(layer["bias"])), padding=1)

    def block(x, params, stats):
        mean, var, scale, bias = (
            torch.from_numpy(np.asarray(v))
            for v in (
                *(stats["norm"][k] for k in ("mean", "var")),
                *(params["norm"][k] for k in ("scale", "bias")),
            )
        )
        x = conv(x, params["conv"])
        return functional.relu(functional.batch_norm(x, mean, var, scale, bias, eps=1e-5))

    x, kept = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), []
    for stage in range(1, 6):
        for name in sorted(n for n in params["encoder"] if n.startswith(f"stage{stage}")):
            x = block(x, params["encoder"][name], stats["encoder"][name])
        size = x.shape[2:]
        x, indices = functional.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
        kept.append((size, indices))
    for stage in range(5, 0, -1):
        size, indices = kept.pop()
        x = functional.max_unpool2d(x, indices, 2, 2, output_size=size)
        names = (n for n in params["decoder"] if n.startswith(f"stage{stage}"))
        for name in sorted(names, reverse=True):
            x = block(x, params["decoder"][name], stats["decoder"][name])
    return conv(x, params["head"]["conv"]).numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(64, 32), (45, 70)])
def test_logits_equal_torch(torch, size):
    model = SegNet(encoders.vgg.VGG((2, 2, 3, 3, 3), True, (8, 8, 12, 16, 16)), 4)
    images = peers.images(2, *size, 3)
    template = jax.eval_shape(model.init, jax.random.key(0), images)

    def fill(path, x):
        name = "/".join(key.key for key in path)
        name = name.replace("/var", "/running_var").replace("/scale", "/weight")
        shape = x.shape[::-1]  # weights scale by what lies behind the first axis
        return np.ascontiguousarray(peers.weights({name: shape})[name].transpose())

    variables = jax.tree_util.tree_map_with_path(fill, template)
    logits = fast_jit(model.apply)(variables, images).logits
    expected = in_torch(torch, variables["params"], variables["batch_stats"], images)
    assert 0.05 < expected.std() < 10
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_names_and_shapes_are_those_of_torchvisions_vgg16_bn(torch, torchvision):
    with torch.device("meta"):
        names = torchvision.models.vgg16_bn().state_dict()
    model = SegNet(encoders.vgg16_bn(), 11)
    template = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    state_dict = pretrained.to_torch(model, zeros, source="torchvision")
    assert {k: v.shape for k, v in state_dict.items()} == {
        k: tuple(v.shape) for k, v in names.items() if v.ndim and k.startswith("features.")
    }
