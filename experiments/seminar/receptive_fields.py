"""Theoretical and effective receptive fields of VGG-16 and the original U-Net."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import style
from matplotlib.patches import Rectangle

from jaxseg import encoders, models

SIZE = 256
WIDTHS = (8, 16, 32, 64, 64)


def effective(logit, images: jax.Array) -> np.ndarray:
    """Returns the absolute gradient of one logit, averaged over random images and scaled to a maximum of 1, `[H, W]`."""
    gradient = np.asarray(jnp.abs(jax.jit(jax.grad(logit))(images)).sum((0, 3)))
    return gradient / gradient.max()


def fields(repeats: int) -> dict[str, tuple[np.ndarray, int]]:
    """Returns for each network the gradient and the side of the theoretical field."""
    images = jax.random.normal(jax.random.key(0), (repeats, SIZE, SIZE, 3))
    middle = SIZE // 2
    result = {}
    for name, stage, field in (("conv3_3", 1, 40), ("conv4_3", 2, 92), ("conv5_3", 3, 196)):
        # VGG-16 an eighth as wide; the field of conv5_3 is that before the last pool.
        encoder = encoders.vgg.VGG((2, 2, 3, 3, 3), False, WIDTHS, depth=stage + 1)
        variables = encoder.init(jax.random.key(1), images[:1])

        def logit(images, encoder=encoder, variables=variables):
            feature = encoder.apply(variables, images)[-1]
            h, w = feature.shape[1:3]
            return feature[:, h // 2, w // 2].sum()

        result[f"VGG-16, {name}"] = effective(logit, images), field
    body = models.original_unet(num_classes=1, channels=WIDTHS).body
    size = body.input_size(1)
    window = slice(middle - size // 2, middle + size // 2)
    crop = images[:, window, window]
    variables = body.init(jax.random.key(1), crop)

    def centre(images):
        logits = body.apply(variables, images)
        return logits[:, logits.shape[1] // 2, logits.shape[2] // 2].sum()

    pad = (SIZE - size) // 2
    result["U-Net, logits"] = np.pad(effective(centre, crop), pad), size
    return result


def plot(out: Path, repeats: int = 8) -> None:
    """Plots the gradient of a central pixel and the theoretical field around it."""
    figure = style.figure(9.6, 3.0)
    panels = figure.subplots(1, 4)
    for axes, (name, (gradient, field)) in zip(panels, fields(repeats).items(), strict=True):
        # The square root makes the tails visible.
        style.picture(axes, np.sqrt(gradient), cmap="magma_r", vmin=0, vmax=1)
        rows, columns = np.nonzero(gradient)
        corner = (
            (columns.min() + columns.max() + 1 - field) / 2,
            (rows.min() + rows.max() + 1 - field) / 2,
        )
        axes.add_patch(
            Rectangle(
                (corner[0] - 0.5, corner[1] - 0.5),
                field,
                field,
                fill=False,
                edgecolor=style.BLUE,
                linewidth=1.6,
            )
        )
        axes.set_title(f"{name}\n{field} x {field} pixels", fontsize=9)
        axes.set(xlim=(-0.5, SIZE - 0.5), ylim=(SIZE - 0.5, -0.5))
    style.save(figure, out, "receptive_fields.png", dpi=108)
