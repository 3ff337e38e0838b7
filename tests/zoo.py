"""Every network in small, with random variables, for the tests that go through all of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxseg
from jaxseg import encoders

VGG_DENSE = 14_723_136 + (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096
NETWORKS = {  # parameters with ResNet-34 (those on a VGG: VGG-16) and one class; those of U-Net and FPN are smp's
    "fcn_32s": 21_284_672 + 512 + 1,
    "fcn_16s": 21_284_672 + 512 + 256 + 2 + 16,
    "fcn_8s": 21_284_672 + 512 + 256 + 128 + 3 + 32,
    "fcn_vgg_32s": VGG_DENSE + 4096 + 1,
    "fcn_vgg_16s": VGG_DENSE + 4096 + 512 + 2 + 16,
    "fcn_vgg_8s": VGG_DENSE + 4096 + 512 + 256 + 3 + 32,
    "fcn_vgg_8s_at_once": VGG_DENSE + 4096 + 512 + 256 + 3 + 32,
    "fcn": 21_284_672 + (9 * 512 + 2 + 1) * 128 + (9 * 256 + 2 + 1) * 64 + 2,
    "unet": 24_436_369,
    "fpn": 23_155_393,
    "multiscale_fpn": 21_284_672 + 4 * (9 * 256 + 1) * 256 + (960 + 4) * 256 + 590_080 + 257,
    "segnet": 29_443_585,
    "original_unet": 31_031_745,
    "original_unet_padded": 31_031_745,
}
SLOW = (
    *("fcn_32s", "fcn_16s", "fcn_vgg_32s", "fcn_vgg_16s", "fcn_vgg_8s_at_once"),
    *("multiscale_fpn", "original_unet_padded"),
)
"""Those that are run by `-m slow` alone: they are made of what others are made of."""
ON_VGG = ("fcn_vgg_32s", "fcn_vgg_16s", "fcn_vgg_8s", "fcn_vgg_8s_at_once", "segnet")
NARROW = {name: {"fc_features": 32} for name in ON_VGG if name.startswith("fcn")}
WITHOUT_ENCODER = {  # and the options that make them small
    "original_unet": {"channels": (6, 8, 12)},
    "original_unet_padded": {"channels": (6, 8, 12, 16)},
}
ON_ANY_ENCODER = tuple(n for n in NETWORKS if n not in (*ON_VGG, *WITHOUT_ENCODER))
SIZE = (33, 47)
CLASSES = 3


class OwnEncoder(nn.Module):
    """What a user might write: it starts at stride 4, and its numbers of channels are its own."""

    @property
    def strides(self):
        return 4, 8, 16, 32

    @property
    def channels(self):
        return 6, 10, 12, 20

    @nn.compact
    def __call__(self, images, *, train=False):
        features = []
        for i, channels in enumerate(self.channels):
            stride = 4 if i == 0 else 2
            images = nn.Conv(channels, (3, 3), strides=stride, padding=1)(images)
            features.append(images)
        return tuple(features)


def create(name, encoder=None, num_classes=CLASSES, **options):
    if name in WITHOUT_ENCODER:
        return jaxseg.create(name, num_classes=num_classes, **options)
    encoder = encoder or ("vgg11_bn" if name in ON_VGG else "resnet18")
    return jaxseg.create(name, encoder=encoder, num_classes=num_classes, **options)


def shapes(model, images=(1, *SIZE, 3), **options):
    """The output's and the variables' shapes."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(lambda x: model.init_with_output(rngs, x, **options), jnp.zeros(images))


def random_variables(template, seed=0):
    """Values that keep activations near one and leave no leaf at zero."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        if len(x.shape) > 1:
            values = rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape)
        elif path[-1].key in ("scale", "var"):
            values = rng.uniform(0.3, 1.0, x.shape)
        else:
            values = rng.normal(0, 0.1, x.shape)
        return jnp.asarray(values, x.dtype)

    return jax.tree_util.tree_map_with_path(fill, template)


def fast_jit(function):
    """Small shapes run once: what counts is the time to compile."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def small(name="unet", **fields):
    """The smallest encoder that the network stands on."""
    if name in ON_VGG:
        return encoders.VGG((1, 1, 1, 1, 1), True, (8, 12, 16, 20, 24), **fields)
    return encoders.ResNet((1, 1, 1, 1), **fields)


def small_model(name, num_classes=CLASSES, **fields):
    """The network on its smallest encoder, or small by itself."""
    if name in WITHOUT_ENCODER:
        fields.pop("in_channels", None)  # they take what comes
        return create(name, None, num_classes, **WITHOUT_ENCODER[name], **fields)
    return create(name, small(name, **fields), num_classes, **NARROW.get(name, {}))
