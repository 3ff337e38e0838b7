"""Joint augmentation of image and mask on the host, by albumentations."""

import os
import random
import threading
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from jaxseg.data.labels import fit
from jaxseg.data.ranges import check_view
from jaxseg.imports import without

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it contacts a server at import otherwise
# It imports both where they are installed, for 1 and 0.1 s; nothing here uses them.
with without("torch"), without("huggingface_hub"):
    import albumentations as alb


class TrainAugment:
    """Random scale, crop, flip and colour, the same for an image and its mask.

    Image and mask are scaled by one factor drawn from `scale`, a window of `crop_size` is cut out
    at random (what lies outside of the image is `fill`, and `ignore_index` in the mask), the window
    is flipped left to right half of the time, and brightness, contrast, saturation and hue of the
    image are changed a little. Masks are resized to the nearest pixel. Photometric changes need 3
    channels; images of other depths get brightness and contrast alone.

    Args:
        crop_size: (height, width) in pixels of what comes out.
        scale: Least and greatest factor.
        flip: Whether to flip.
        photometric: Whether to change colours.
        ignore_index: The label of padding.
        fill: The pixel value of padding, for each channel or all of them; ImageNet's mean.

    >>> augment = TrainAugment((8, 8))
    >>> image, label = np.zeros((6, 9, 3), np.uint8), np.ones((6, 9), np.uint8)
    >>> out = augment({"image": image, "label": label, "name": "a"}, np.random.default_rng(0))
    >>> out["image"].shape, out["label"].shape, out["name"]
    ((8, 8, 3), (8, 8), 'a')
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        *,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        photometric: bool = True,
        ignore_index: int = 255,
        fill: int | tuple[int, ...] = (124, 116, 104),
    ):
        check_view(crop_size, scale)
        self.crop_size = (int(crop_size[0]), int(crop_size[1]))
        self.scale = (float(scale[0]), float(scale[1]))
        self.flip, self.photometric = flip, photometric
        self.ignore_index, self.fill = ignore_index, fill
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Augments one record.

        Args:
            record: `image` uint8 `[H, W, C]`, `label` `[H, W]` uint8 or int32, and `name`.
            rng: Where every random choice comes from.

        Returns:
            `image` uint8 `[h, w, C]`, `label` `[h, w]` of the dtype given (int32 where that cannot
            hold `ignore_index`), and `name`.
        """
        image, label = record["image"], fit(record["label"], self.ignore_index)
        compose = self._compose(image.shape[-1], min(image.shape[:2]) * self.scale[0] >= 1)
        # Both generators are new for each record: nothing is carried over from the one before.
        words = rng.integers(0, 2**63, size=2)
        compose.set_random_state(np.random.default_rng(words[0]), random.Random(int(words[1])))
        out = compose(image=image, mask=label)
        return {"image": out["image"], "label": out["mask"], "name": record.get("name", "")}

    def _compose(self, channels: int, scalable: bool) -> alb.Compose:
        """The transforms for images of so many channels; one set per thread, as they hold state."""
        cache = self._local.__dict__
        key = f"{channels}/{scalable}"
        if key not in cache:
            cache[key] = alb.Compose([*self._transforms(channels, scalable)])
        return cache[key]

    def _transforms(self, channels: int, scalable: bool) -> list[alb.BasicTransform]:
        fill = self.fill
        if not isinstance(fill, int) and len(fill) != channels:
            fill = round(sum(fill) / len(fill))
        transforms: list[alb.BasicTransform] = []
        if self.scale != (1.0, 1.0) and scalable:  # where no side would shrink to nothing
            transforms.append(
                alb.RandomScale(
                    (self.scale[0] - 1, self.scale[1] - 1),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST_EXACT,  # the other is half a pixel off
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
                fill_mask=self.ignore_index,
                p=1.0,
            )
        )
        if self.flip:
            transforms.append(alb.HorizontalFlip(p=0.5))
        if self.photometric and channels == 3:
            transforms.append(
                alb.ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.05, 0.05), p=0.8)
            )
        elif self.photometric:
            transforms.append(alb.RandomBrightnessContrast((-0.3, 0.3), (-0.3, 0.3), p=0.8))
        return transforms
