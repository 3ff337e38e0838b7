"""Kinds of upsampling side by side, applied to a single pixel, a small image and a constant."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import style

from jaxseg import nn
from jaxseg.nn.transposed import bilinear_kernel

FACTOR = 4


def small_image() -> jax.Array:
    """Returns an image `[1, 8, 8, 1]` with a bright ring and a bright corner on a dark background."""
    rows = ["11111111", "11777111", "17111711", "17111711", "17111711", "11777117"]
    rows += ["11111177", "11111777"]
    return jnp.asarray([[int(c) for c in row] for row in rows], jnp.float32)[None, :, :, None] / 7


def transposed(x: jax.Array, kernel_size: int, kind: str) -> jax.Array:
    """Applies a transposed convolution of stride two with a kernel of ones, random or bilinear."""
    shape = (kernel_size, kernel_size, 1, 1)
    if kind == "bilinear":
        kernel = bilinear_kernel(jax.random.key(0), shape)
    elif kind == "ones":
        kernel = jnp.ones(shape)
    else:
        kernel = jax.random.uniform(jax.random.key(1), shape)
    padding = -(-(kernel_size - 2) // 2)
    extra = 2 * padding - (kernel_size - 2)
    return nn.transposed_convolution(x, kernel, 2, padding=padding, output_padding=extra)


def plot_kinds(out: Path) -> None:
    """Plots a small image enlarged four times by each kind."""
    x = small_image()
    height, width = x.shape[1:3]
    size = (FACTOR * height, FACTOR * width)
    fine = nn.bilinear(x, size)
    # The positions of the maxima in the windows of a finer map.
    texture = fine + 0.15 * jax.random.uniform(jax.random.key(2), fine.shape)
    _, indices = nn.max_pool_with_indices(texture, FACTOR)
    kernel = bilinear_kernel(jax.random.key(0), (2 * FACTOR, 2 * FACTOR, 1, 1))
    kinds = {
        "nearest": nn.nearest(x, size),
        "bilinear": fine,
        "bilinear,\naligned corners": nn.bilinear_aligned(x, size),
        "max-unpooling": nn.max_unpool(x, size, indices=indices),
        "transposed conv.,\nbilinear kernel": nn.transposed_convolution(
            x, kernel, FACTOR, padding=2
        ),
    }
    figure = style.figure(9.6, 2.1)
    panels = figure.subplots(1, 6)
    style.picture(panels[0], x[0, :, :, 0], "8 x 8\n", cmap="cividis", vmin=0, vmax=1)
    for axes, (name, image) in zip(panels[1:], kinds.items(), strict=True):
        assert image.shape == (1, *size, 1)
        title = name if "\n" in name else name + "\n"
        style.picture(axes, image[0, :, :, 0], title, cmap="cividis", vmin=0, vmax=1)
    for axes in panels:
        axes.title.set_fontsize(9)
    style.save(figure, out, "upsampling.png")


def plot_checkerboard(out: Path) -> None:
    """Plots a constant upsampled by two, with checkerboards from uneven overlaps and random kernels."""
    x = jnp.ones((1, 8, 8, 1))
    shuffled = 0.6 + 0.4 * jax.random.uniform(jax.random.key(4), (4,))
    kinds = {
        "kernel 3, ones": transposed(x, 3, "ones"),
        "kernel 3, random": transposed(x, 3, "random"),
        "kernel 4, random": transposed(x, 4, "random"),
        "kernel 2, random": transposed(x, 2, "random"),
        "pixel shuffle, random": nn.pixel_shuffle(x * shuffled.reshape(1, 1, 1, 4), (16, 16)),
        "kernel 4, bilinear": transposed(x, 4, "bilinear"),
    }
    figure = style.figure(9.6, 1.9)
    for axes, (name, image) in zip(figure.subplots(1, 6), kinds.items(), strict=True):
        image = np.asarray(image[0, :, :, 0])
        style.picture(axes, image / image.max(), name, cmap="cividis", vmin=0.2, vmax=1.05)
        axes.title.set_fontsize(9)
    style.save(figure, out, "checkerboard.png")


def plot_footprints(out: Path) -> None:
    """Plots the profile of a single pixel after upsampling."""
    x = jnp.zeros((1, 7, 7, 1)).at[0, 3, 3, 0].set(1.0)
    size = (7 * FACTOR, 7 * FACTOR)
    kernel = partial(bilinear_kernel, jax.random.key(0))
    figure = style.figure(8.6, 2.6)
    axes = figure.subplots()
    at = np.arange(7 * FACTOR)
    lines = {
        "nearest": (nn.nearest(x, size), style.BLUE, "-"),
        "bilinear": (nn.bilinear(x, size), style.ORANGE, "-"),
        "bilinear, aligned corners": (nn.bilinear_aligned(x, size), style.GREEN, "-"),
        "transposed convolution, bilinear kernel": (
            nn.transposed_convolution(x, kernel((8, 8, 1, 1)), FACTOR, padding=2),
            style.INK,
            (0, (1, 2)),
        ),
    }
    for name, (image, colour, dash) in lines.items():
        profile = np.asarray(image[0, :, :, 0]).max(0)
        steps = "steps-mid" if name == "nearest" else "default"
        axes.plot(at, profile, colour, ls=dash, marker="o", ms=3.5, drawstyle=steps, label=name)
    axes.axvspan(11.5, 15.5, color=style.GROUND, zorder=0)
    axes.set(xlim=(6, 21), ylim=(0, 1.08), xlabel="pixel of the result", xticks=range(6, 22))
    axes.legend(loc="upper left", fontsize=8)
    style.save(figure, out, "footprints.svg")


def plot(out: Path) -> None:
    """Plots all figures."""
    plot_kinds(out)
    plot_checkerboard(out)
    plot_footprints(out)
