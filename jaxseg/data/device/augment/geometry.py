"""Scale, rotation, crop, flip and elastic deformation as one resampling: every pixel is interpolated once."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.data.device.augment.compose import Sample, Transform
from jaxseg.data.device.augment.pixel_values import like, to_float
from jaxseg.data.targets import Target, Targets, labels
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key, Size

FILL = (124, 116, 104)
"""ImageNet's mean: the value of pixels outside the image."""


def check_view(size: Sequence[int], scale: Sequence[float]) -> None:
    """Checks the size of a crop and the range of a scale.

    Args:
        size: Height and width of the crop in pixels.
        scale: Smallest and largest factor by which the image is scaled before.

    Raises:
        InputError: The size is not a height and a width, or the scale not a smallest and a largest factor.

    >>> check_view((8, 8), (0.5, 2.0))
    """
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"a crop's size is (height, width) in pixels, got {tuple(size)}")
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise InputError(
            f"a scale is (smallest, largest) factor, both positive, got {tuple(scale)}"
        )


def view(
    sample: Sample,
    *,
    size: Size,
    scale: Any = 1.0,
    angle: Any = 0.0,
    corner: Any = (0.0, 0.0),
    flip: Any = (False, False),
    displacement: Array | None = None,
    fill: int | Sequence[int] = FILL,
    targets: Targets = labels(),
) -> Sample:
    """Returns a window of a sample whose image was rotated about its centre and scaled.

    Every pixel of the window is traced back to a position in the image, where the image and maps are interpolated
    bilinearly and masks are read at the nearest pixel; positions outside the image get `fill` and the targets' fill
    values. With `scale=1`, `angle=0` and an integer `corner` pixels are copied exactly.

    Args:
        sample: `{"image": [H, W, C], **targets}`, the image uint8 or floating point.
        size: Height and width of the window in pixels.
        scale: Factor of the image's size, or `[2]`, of its height and its width.
        angle: Degrees, counter-clockwise.
        corner: `[2]`, top and left edge of the window in pixels of the scaled image.
        flip: `[2]`, whether the window is flipped top to bottom, and left to right.
        displacement: `[*size, 2]`, the displacement of each pixel's position in pixels, down and to the right.
        fill: The image's value outside the image, for each channel; its mean for other numbers of channels.
        targets: The kinds of the targets.

    Returns:
        The sample with size `size`, in the dtypes of the argument.

    Raises:
        InputError: The sample has other targets, or the dtype of a mask cannot hold its fill value.

    >>> from jaxseg.data.targets import Target
    >>> mask = jnp.arange(6, dtype=jnp.uint8).reshape(2, 3)
    >>> sample = {"image": jnp.repeat(mask[..., None], 3, axis=-1), "mask": mask}
    >>> options = {"size": (2, 3), "corner": (0.0, 1.0), "flip": (False, True)}
    >>> view(sample, **options, targets={"mask": Target("mask", 255)})["mask"].tolist()
    [[255, 2, 1], [255, 5, 4]]
    """
    if sample.keys() != {"image", *targets}:
        raise InputError(
            f"the sample holds {', '.join(sample)}, but the view's targets are {', '.join(targets) or 'none'}: give targets="
        )
    image = sample["image"]
    (height, width), real = image.shape[:2], to_float(image).dtype
    y, x = jnp.arange(size[0], dtype=real)[:, None] + 0.5, jnp.arange(size[1], dtype=real) + 0.5
    y, x = jnp.broadcast_to(y, size), jnp.broadcast_to(x[None], size)
    # Backwards: from a pixel of the window to its position in the image.
    if displacement is not None:
        y, x = y + displacement[..., 0].astype(real), x + displacement[..., 1].astype(real)
    flip, corner = jnp.asarray(flip), jnp.asarray(corner, real)
    scale = jnp.broadcast_to(jnp.asarray(scale, real), (2,))
    y, x = jnp.where(flip[0], size[0] - y, y), jnp.where(flip[1], size[1] - x, x)
    y, x = (y + corner[0]) / scale[0] - height / 2, (x + corner[1]) / scale[1] - width / 2
    radians = jnp.deg2rad(jnp.asarray(angle, real))
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    y, x = cos * y + sin * x + height / 2, cos * x - sin * y + width / 2
    resampled = {"image": _bilinear(image, y, x, _channel_fill(fill, image.shape[-1]))}
    for name, target in targets.items():
        resampled[name] = _resample(sample[name], y, x, name, target)
    return resampled


def random_view(
    size: Size,
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    rotate: float = 0.0,
    flip: bool = True,
    elastic: float = 0.0,
    elastic_points: int = 3,
    fill: int | Sequence[int] = FILL,
    targets: Targets = labels(),
) -> Transform:
    """Returns a transform that samples scale, rotation, elastic deformation, crop and flip of one `view`.

    Args:
        size: Height and width of the crop in pixels; a scaled image that is smaller is placed in it at random.
        scale: Smallest and largest factor.
        rotate: The largest angle in degrees, to either side.
        flip: Whether to flip left to right with probability 1/2.
        elastic: Standard deviation, in pixels of the crop, of the displacements of `elastic_points`^2 points.
        elastic_points: The number of displaced points along each side.
        fill: The image's value outside the image.
        targets: The kinds of the targets.

    Raises:
        InputError: An invalid size, range or number of points.

    >>> transform = random_view((4, 4), scale=(0.5, 2.0), rotate=30.0, elastic=1.0, targets={})
    >>> transform(jax.random.key(0), {"image": jnp.ones((6, 8, 3))})["image"].shape
    (4, 4, 3)

    References:
        Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015, whose elastic
        deformations are Gaussian displacements of 3 x 3 points with a standard deviation of 10 pixels:
        https://arxiv.org/abs/1505.04597.
    """
    check_view(size, scale)
    if rotate < 0 or elastic < 0 or elastic_points < 2:
        raise InputError(
            f"rotate={rotate} and elastic={elastic} must not be negative, elastic_points={elastic_points} at least 2"
        )

    def transform(key: Key, sample: Sample) -> Sample:
        image = sample["image"]
        real = to_float(image).dtype
        scale_key, angle_key, corner_key, flip_key, elastic_key = jax.random.split(key, 5)
        factor = jax.random.uniform(scale_key, (), real, *scale)
        angle = jax.random.uniform(angle_key, (), real, -rotate, rotate) if rotate else 0.0
        excess = jnp.asarray(image.shape[:2], real) * factor - jnp.asarray(size, real)
        steps = jnp.floor(jnp.abs(excess)) + 1  # whole pixels, so that an unscaled image is copied
        offset = jnp.floor(jax.random.uniform(corner_key, (2,), real) * steps)
        field = None
        if elastic:
            shape = (elastic_points, elastic_points, 2)
            field = elastic_field(elastic * jax.random.normal(elastic_key, shape, real), size)
        return view(
            sample,
            size=size,
            scale=factor,
            angle=angle,
            corner=jnp.sign(excess) * offset,
            flip=jnp.stack([jnp.array(False), jax.random.bernoulli(flip_key) & flip]),
            displacement=field,
            fill=fill,
            targets=targets,
        )

    return transform


def elastic_field(points: Array, size: Size) -> Array:
    """Interpolates the displacements of a few points to a smooth field, by cubic interpolation.

    Args:
        points: `[h, w, 2]` in pixels, of points spaced evenly over the window.
        size: Height and width of the window.

    Returns:
        `[*size, 2]`, for `view`.

    >>> elastic_field(jnp.ones((3, 3, 2)), (5, 7)).shape
    (5, 7, 2)
    """
    return jax.image.resize(points, (*size, 2), "cubic")


def _resample(values: Array, y: Array, x: Array, name: str, target: Target) -> Array:
    """Reads a target at positions in pixels."""
    if target.kind == "map":
        return _bilinear(values, y, x, jnp.asarray(target.fill))
    limits = jnp.iinfo(values.dtype)
    if not limits.min <= target.fill <= limits.max:
        raise InputError(
            f"{name} of type {values.dtype.name} cannot hold its fill value {target.fill}: give it as int32"
        )
    height, width = values.shape[:2]
    nearest = values[_clamp(y, height), _clamp(x, width)]
    inside = _like_values(_inside(values, y, x), values)
    return jnp.where(inside, nearest, jnp.asarray(target.fill, values.dtype))


def _bilinear(values: Array, y: Array, x: Array, fill: Any) -> Array:
    """Interpolates `[H, W, ...]` at positions in pixels, whose centres are at halves."""
    height, width = values.shape[:2]
    inside = _like_values(_inside(values, y, x), values)
    top, left = jnp.floor(y - 0.5), jnp.floor(x - 0.5)
    real = to_float(values).dtype
    down = _like_values(y - 0.5 - top, values).astype(real)
    right = _like_values(x - 0.5 - left, values).astype(real)
    (y0, y1), (x0, x1) = _neighbours(top, height), _neighbours(left, width)
    upper = to_float(values[y0, x0]) * (1 - right) + to_float(values[y0, x1]) * right
    lower = to_float(values[y1, x0]) * (1 - right) + to_float(values[y1, x1]) * right
    between = upper * (1 - down) + lower * down
    return like(jnp.where(inside, between, jnp.asarray(fill, between.dtype)), values)


def _inside(values: Array, y: Array, x: Array) -> Array:
    return (y >= 0) & (y < values.shape[0]) & (x >= 0) & (x < values.shape[1])


def _like_values(pixels: Array, values: Array) -> Array:
    """Appends axes to `[h, w]` until it broadcasts with `[h, w, ...]`."""
    return pixels.reshape(*pixels.shape, *(1,) * (values.ndim - 2))


def _neighbours(first: Array, length: int) -> tuple[Array, Array]:
    """Returns the indices of two neighbours; the outermost pixel is repeated at the edge."""
    return _clamp(first, length), _clamp(first + 1, length)


def _clamp(position: Array, length: int) -> Array:
    return jnp.clip(jnp.floor(position), 0, length - 1).astype(jnp.int32)


def _channel_fill(fill: int | Sequence[int], channels: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(fill, np.float32))
    if len(values) not in (1, channels):
        values = np.round(values.mean(keepdims=True))
    return np.broadcast_to(values, (1, 1, channels))
