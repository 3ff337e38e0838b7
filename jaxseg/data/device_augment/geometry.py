"""Scale, rotation, crop, flip and elastic displacement as one look at the image: every pixel is read once."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.data.device_augment.compose import Transform
from jaxseg.data.device_augment.values import like, to_float
from jaxseg.data.ranges import check_view
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key, Size

FILL = (124, 116, 104)
"""ImageNet's mean: what is shown where there is no image."""


def view(
    image: Array,
    label: Array,
    *,
    size: Size,
    scale: Any = 1.0,
    angle: Any = 0.0,
    corner: Any = (0.0, 0.0),
    flip: Any = (False, False),
    displacement: Array | None = None,
    fill: int | Sequence[int] = FILL,
    ignore_index: int = 255,
) -> tuple[Array, Array]:
    """A window of an image that was rotated about its centre and scaled, and its label's.

    Every pixel of the window is traced back to a place in the image, where the image is read bilinearly and the label at
    the nearest pixel; places outside of the image show `fill` and `ignore_index`, both at the same pixels. With
    `scale=1`, `angle=0` and a whole `corner` pixels are copied, exactly.

    Args:
        image: `[H, W, C]`, uint8 or floating point.
        label: `[H, W]` integers.
        size: Height and width of the window in pixels.
        scale: Factor of the image's size, or `[2]`, of its height and its width.
        angle: Degrees, counter-clockwise.
        corner: `[2]`, top and left edge of the window in pixels of the scaled image.
        flip: `[2]`, whether the window is flipped top to bottom, and left to right.
        displacement: `[*size, 2]`, by how many pixels, down and to the right, each pixel of the window looks elsewhere.
        fill: The value outside of the image, for each channel; the mean of it for other numbers of channels.
        ignore_index: The label outside of the image.

    Returns:
        Image `[*size, C]` and label `[*size]`, in the types given.

    Raises:
        InputError: The label's type cannot hold `ignore_index`.

    >>> label = jnp.arange(6, dtype=jnp.uint8).reshape(2, 3)
    >>> image = jnp.repeat(label[..., None], 3, axis=-1)
    >>> view(image, label, size=(2, 3), corner=(0.0, 1.0), flip=(False, True))[1].tolist()
    [[255, 2, 1], [255, 5, 4]]
    """
    bounds = jnp.iinfo(label.dtype)
    if not bounds.min <= ignore_index <= bounds.max:
        raise InputError(
            f"labels of type {label.dtype.name} cannot hold ignore_index={ignore_index}: give them as int32"
        )
    (height, width), real = label.shape, to_float(image).dtype
    y, x = jnp.arange(size[0], dtype=real)[:, None] + 0.5, jnp.arange(size[1], dtype=real) + 0.5
    y, x = jnp.broadcast_to(y, size), jnp.broadcast_to(x[None], size)
    # Backwards: from a pixel of the window to its place in the image.
    if displacement is not None:
        y, x = y + displacement[..., 0].astype(real), x + displacement[..., 1].astype(real)
    flip, corner = jnp.asarray(flip), jnp.asarray(corner, real)
    scale = jnp.broadcast_to(jnp.asarray(scale, real), (2,))
    y, x = jnp.where(flip[0], size[0] - y, y), jnp.where(flip[1], size[1] - x, x)
    y, x = (y + corner[0]) / scale[0] - height / 2, (x + corner[1]) / scale[1] - width / 2
    radians = jnp.deg2rad(jnp.asarray(angle, real))
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    y, x = cos * y + sin * x + height / 2, cos * x - sin * y + width / 2
    return _read(image, label, y, x, fill, ignore_index)


def random_view(
    size: Size,
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    rotate: float = 0.0,
    flip: bool = True,
    elastic: float = 0.0,
    elastic_points: int = 3,
    fill: int | Sequence[int] = FILL,
    ignore_index: int = 255,
) -> Transform:
    """Scale, rotation, elastic deformation, crop and flip, all in one `view`.

    Args:
        size: Height and width of the crop in pixels; where the scaled image is smaller, it lies in it at random.
        scale: Least and greatest factor.
        rotate: The greatest angle in degrees, to either side.
        flip: Whether to flip left to right, half of the time.
        elastic: Standard deviation, in pixels of the crop, of the displacements of `elastic_points`^2 points.
        elastic_points: Points that are displaced, along each side.
        fill: The value outside of the image.
        ignore_index: The label outside of the image.

    Raises:
        InputError: A size, range or number of points that makes no sense.

    >>> transform = random_view((4, 4), scale=(0.5, 2.0), rotate=30.0, elastic=1.0)
    >>> image, label = transform(jax.random.key(0), jnp.ones((6, 8, 3)), jnp.ones((6, 8), jnp.int32))
    >>> image.shape, label.shape
    ((4, 4, 3), (4, 4))

    References:
        Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015, whose elastic
        deformations are Gaussian displacements of 3 x 3 points, 10 pixels of standard deviation:
        https://arxiv.org/abs/1505.04597.
    """
    check_view(size, scale)
    if rotate < 0 or elastic < 0 or elastic_points < 2:
        raise InputError(
            f"rotate={rotate} and elastic={elastic} must not be negative, elastic_points={elastic_points} at least 2"
        )

    def transform(key: Key, image: Array, label: Array) -> tuple[Array, Array]:
        real = to_float(image).dtype
        factor, turn, place, side, points = jax.random.split(key, 5)
        zoom = jax.random.uniform(factor, (), real, *scale)
        degrees = jax.random.uniform(turn, (), real, -rotate, rotate) if rotate else 0.0
        spare = jnp.asarray(label.shape, real) * zoom - jnp.asarray(size, real)
        steps = jnp.floor(jnp.abs(spare)) + 1  # whole pixels, so that an unscaled image is copied
        corner = jnp.sign(spare) * jnp.floor(jax.random.uniform(place, (2,), real) * steps)
        field = None
        if elastic:
            shape = (elastic_points, elastic_points, 2)
            field = elastic_field(elastic * jax.random.normal(points, shape, real), size)
        return view(
            image,
            label,
            size=size,
            scale=zoom,
            angle=degrees,
            corner=corner,
            flip=jnp.stack([jnp.array(False), jax.random.bernoulli(side) & flip]),
            displacement=field,
            fill=fill,
            ignore_index=ignore_index,
        )

    return transform


def elastic_field(points: Array, size: Size) -> Array:
    """A smooth field of displacements through those of a few points, by cubic interpolation.

    Args:
        points: `[h, w, 2]` in pixels, of points spread evenly over the window.
        size: Height and width of the window.

    Returns:
        `[*size, 2]`, for `view`.

    >>> elastic_field(jnp.ones((3, 3, 2)), (5, 7)).shape
    (5, 7, 2)
    """
    return jax.image.resize(points, (*size, 2), "cubic")


def _read(
    image: Array, label: Array, y: Array, x: Array, fill: int | Sequence[int], ignore_index: int
) -> tuple[Array, Array]:
    """Image and label at places in pixels, whose centres are at halves."""
    height, width = label.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    rows, columns = _within(y, height), _within(x, width)
    nearest = jnp.where(inside, label[rows, columns], jnp.asarray(ignore_index, label.dtype))
    top, left = jnp.floor(y - 0.5), jnp.floor(x - 0.5)
    down, right = (y - 0.5 - top)[..., None], (x - 0.5 - left)[..., None]
    (y0, y1), (x0, x1) = _pair(top, height), _pair(left, width)
    upper = to_float(image[y0, x0]) * (1 - right) + to_float(image[y0, x1]) * right
    lower = to_float(image[y1, x0]) * (1 - right) + to_float(image[y1, x1]) * right
    between = upper * (1 - down) + lower * down
    outside = jnp.asarray(_filling(fill, image.shape[-1]), between.dtype)
    return like(jnp.where(inside[..., None], between, outside), image), nearest


def _pair(first: Array, length: int) -> tuple[Array, Array]:
    """Two neighbours, the outermost pixel twice at the edge."""
    return _within(first, length), _within(first + 1, length)


def _within(place: Array, length: int) -> Array:
    return jnp.clip(jnp.floor(place), 0, length - 1).astype(jnp.int32)


def _filling(fill: int | Sequence[int], channels: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(fill, np.float32))
    if len(values) not in (1, channels):
        values = np.round(values.mean(keepdims=True))
    return np.broadcast_to(values, (1, 1, channels))
