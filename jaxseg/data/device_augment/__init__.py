"""Augmentation on the device, in pure JAX: image and label together, compiled into the training step.

Images are `[H, W, C]`, uint8 or floating point on the scale 0..255, and leave with the type they came with; labels are
`[H, W]` integers. Shapes are static, so everything runs under `jit` and `vmap`. What a transform does divides in two: a
function of explicit numbers (`view`, `adjust_colour`, `blur`, `cutmix`, `copy_paste`, `mosaic`) and one that draws them
(`random_view`, ...). The latter make

- transforms, `(key, image, label) -> (image, label)`, which `compose` and `sometimes` put together, and `vmapped` maps
  over a batch, a key for each image;
- mixes of several images, `(key, images [M, H, W, C], labels [M, H, W]) -> (image, label)`; `mixed` gives each image of
  a batch the next ones as its partners.

What happens to an image depends on its key alone, not on its place in a batch or on the device.

>>> import jax, jax.numpy as jnp
>>> augment = compose(random_view((32, 48), scale=(0.5, 2.0), rotate=10.0), random_colour(), random_blur(1.5))
>>> keys = jax.random.split(jax.random.key(0), 4)
>>> images, labels = jnp.zeros((4, 40, 60, 3), jnp.uint8), jnp.zeros((4, 40, 60), jnp.uint8)
>>> images, labels = jax.jit(vmapped(augment))(keys, images, labels)
>>> images.shape, labels.shape, images.dtype.name
((4, 32, 48, 3), (4, 32, 48), 'uint8')
"""

from jaxseg.data.device_augment.blur import blur, random_blur
from jaxseg.data.device_augment.colour import adjust_colour, random_colour
from jaxseg.data.device_augment.compose import Transform, compose, sometimes, vmapped
from jaxseg.data.device_augment.geometry import elastic_field, random_view, view
from jaxseg.data.device_augment.mixing import (
    Mix,
    copy_paste,
    cutmix,
    mixed,
    mosaic,
    random_copy_paste,
    random_cutmix,
    random_mosaic,
)

__all__ = [
    "Mix",
    "Transform",
    "adjust_colour",
    "blur",
    "compose",
    "copy_paste",
    "cutmix",
    "elastic_field",
    "mixed",
    "mosaic",
    "random_blur",
    "random_colour",
    "random_copy_paste",
    "random_cutmix",
    "random_mosaic",
    "random_view",
    "sometimes",
    "view",
    "vmapped",
]
