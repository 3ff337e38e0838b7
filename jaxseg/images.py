"""Facts about the images that a model expects."""

from typing import Any


def channels_of(model: Any) -> int:
    """Returns the channels of a model's images: `in_channels` of its encoder or its own, or 3.

    >>> from jaxseg import encoders, models
    >>> channels_of(models.unet(encoder=encoders.resnet18(in_channels=5), num_classes=2))
    5
    """
    return getattr(getattr(model, "encoder", model), "in_channels", 3)
