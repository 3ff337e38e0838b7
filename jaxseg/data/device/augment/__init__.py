"""Augmentation on the device, in pure JAX: an image and its targets together, compiled into the training step.

A sample is `{"image": [H, W, C], **targets}`: the image uint8 or floating point in 0..255, the targets `[H, W]` or
`[H, W, D]`, masks (integers) or maps (floats). Dtypes are preserved. Shapes are static, so everything runs under `jit` and
`vmap`. Each augmentation is a function of explicit numbers (`view`, `adjust_colour`, `blur`, `cutmix`, `copy_paste`,
`mosaic`) and a maker (`random_view`, ...) of one of two kinds of functions, which sample these numbers:

- transforms, `(key, sample) -> sample`, which `compose` and `sometimes` combine, and `vmapped` maps over a batch with one
  key for each sample;
- mixes of M stacked samples, `(key, samples) -> sample`; `mixed` mixes each sample of a batch with the next ones.

The result for a sample depends on its key only, not on its index in the batch or the device.

>>> import jax, jax.numpy as jnp
>>> from jaxseg.data.targets import Target
>>> view = random_view((32, 48), scale=(0.5, 2.0), rotate=10.0, targets={"depth": Target("map", 0.0)})
>>> augment = compose(view, random_colour(), random_blur(1.5))
>>> keys = jax.random.split(jax.random.key(0), 4)
>>> batch = {"image": jnp.zeros((4, 40, 60, 3), jnp.uint8), "depth": jnp.zeros((4, 40, 60))}
>>> batch = jax.jit(vmapped(augment))(keys, batch)
>>> batch["image"].shape, batch["depth"].shape, batch["image"].dtype.name
((4, 32, 48, 3), (4, 32, 48), 'uint8')
"""

from jaxseg.data.device.augment.blur import blur, random_blur
from jaxseg.data.device.augment.colour import adjust_colour, random_colour
from jaxseg.data.device.augment.compose import Sample, Transform, compose, sometimes, vmapped
from jaxseg.data.device.augment.geometry import elastic_field, random_view, view
from jaxseg.data.device.augment.mixing import (
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
    "Sample",
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
