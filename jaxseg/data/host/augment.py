"""Joint augmentation of images and targets on the host, by albumentations."""

import os
import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from jaxseg.data.device.augment.geometry import check_view
from jaxseg.data.targets import Target, Targets, labels, select
from jaxseg.imports import block

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it contacts a server at import otherwise
# It imports both where they are installed, for 1 and 0.1 s; nothing here uses them.
with block("torch"), block("huggingface_hub"):
    import albumentations as alb


class TrainAugment:
    """Random scale, crop, flip and colour jitter, the same geometry for an image and its targets.

    The sample is scaled by one factor, a window of `crop_size` is cropped at random (pixels outside the image get `fill`,
    and the fill values of the targets), the window is flipped left to right with probability 1/2, and brightness, contrast,
    saturation and hue of the image are jittered. Masks are resized to the nearest pixel, maps bilinearly. Images with other
    than 3 channels get brightness and contrast only.

    Args:
        crop_size: Height and width of the result in pixels.
        scale: Smallest and largest factor.
        flip: Whether to flip.
        photometric: Whether to jitter colours.
        targets: The kinds of the targets, as `source.targets`.
        fill: The pixel value of padding, for each channel or for all of them; ImageNet's mean by default.

    Raises:
        InputError: An invalid size or scale.

    >>> augment = TrainAugment((8, 8), targets={"depth": Target("map", 0.0)})
    >>> sample = {"image": np.zeros((6, 9, 3), np.uint8), "depth": np.ones((6, 9)), "name": "a"}
    >>> out = augment(sample, np.random.default_rng(0))
    >>> out["image"].shape, out["depth"].shape, out["name"]
    ((8, 8, 3), (8, 8), 'a')
    """

    def __init__(
        self,
        crop_size: Sequence[int],
        *,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        photometric: bool = True,
        targets: Targets = labels(),
        fill: int | tuple[int, ...] = (124, 116, 104),
    ):
        check_view(crop_size, scale)
        self.crop_size = (int(crop_size[0]), int(crop_size[1]))
        self.scale = (float(scale[0]), float(scale[1]))
        self.flip, self.photometric = flip, photometric
        self.targets, self.fill = dict(targets), fill
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Augments one record.

        Args:
            record: `image` uint8 `[H, W, C]`, the targets `[H, W]` or `[H, W, D]`, and `name`.
            rng: The source of every random choice.

        Returns:
            `image` uint8 `[h, w, C]`, the targets in dtypes that hold their fill values, and `name`.

        Raises:
            InputError: The record lacks a target.
        """
        image = select(record, self.targets)["image"]
        is_scalable = min(image.shape[:2]) * self.scale[0] >= 1  # no side would shrink to nothing
        # Both generators are new for each record, so no state is carried over from the one before.
        seeds = rng.integers(0, 2**63, size=2)

        def augment(image: np.ndarray, name: str) -> dict[str, Any]:
            target = self.targets.get(name)
            compose = self._compose(image.shape[2:], is_scalable, target)
            generator = np.random.default_rng(seeds[0])
            compose.set_random_state(generator, random.Random(int(seeds[1])))
            if target is None:
                return compose(image=image)
            return compose(image=image, mask=target.cast(record[name]))

        first, *others = self.targets or ("",)
        result = augment(image, first)
        out = {"image": result["image"], "name": record.get("name", "")}
        if self.targets:
            out[first] = result["mask"]
        # albumentations has one fill value and one interpolation for all masks, so each further target has its own pass
        # with the same seeds, beside a blank image. Its jitter comes last, so leaving it out changes no random number.
        blank = np.zeros(image.shape[:2], np.uint8)
        return out | {name: augment(blank, name)["mask"] for name in others}

    def _compose(
        self, channels: tuple[int, ...], is_scalable: bool, target: Target | None
    ) -> alb.Compose:
        """Returns the transforms of one pass, cached for each thread because they hold state."""
        cache = self._local.__dict__.setdefault("composed", {})
        key = (channels, is_scalable, target)
        if key not in cache:
            cache[key] = alb.Compose([*self._transforms(channels, is_scalable, target)])
        return cache[key]

    def _transforms(
        self, channels: tuple[int, ...], is_scalable: bool, target: Target | None
    ) -> list[alb.BasicTransform]:
        is_map = target is not None and target.kind == "map"
        fill = self.fill
        if not isinstance(fill, int) and (len(fill),) != channels:
            fill = round(sum(fill) / len(fill))
        transforms: list[alb.BasicTransform] = []
        if self.scale != (1.0, 1.0) and is_scalable:
            transforms.append(
                alb.RandomScale(
                    (self.scale[0] - 1, self.scale[1] - 1),
                    interpolation=cv2.INTER_LINEAR,
                    # INTER_NEAREST is half a pixel off.
                    mask_interpolation=cv2.INTER_LINEAR if is_map else cv2.INTER_NEAREST_EXACT,
                    p=1.0,
                )
            )
        transforms.append(
            alb.RandomCrop(
                *self.crop_size,
                pad_if_needed=True,
                pad_position="random",
                border_mode=cv2.BORDER_CONSTANT,
                fill=fill,
                fill_mask=0 if target is None else target.fill,
                p=1.0,
            )
        )
        if self.flip:
            transforms.append(alb.HorizontalFlip(p=0.5))
        if self.photometric and channels == (3,):
            transforms.append(
                alb.ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.05, 0.05), p=0.8)
            )
        elif self.photometric and channels:
            transforms.append(alb.RandomBrightnessContrast((-0.3, 0.3), (-0.3, 0.3), p=0.8))
        return transforms
