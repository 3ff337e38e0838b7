"""Encoders: `encoder(images, train=...) -> features`, a tuple of maps from fine to coarse.

Every encoder has the fields `in_channels` and `depth` and the properties `strides` and `channels`
(one number per feature), which are known without running it. A module of your own with the last two
works in every model.

Each family is one file, which ends with a mapping `ENCODERS` from names to builders; its builders
are attributes of this package, such as `jaxseg.encoders.resnet34`, its modules those of the file:
`jaxseg.encoders.resnet.ResNet`.
"""

from typing import TYPE_CHECKING, Any

from jaxseg import registry
from jaxseg.encoders.protocol import Encoder

__all__ = ["ENCODERS", "Encoder", "create", "names", "options"]

_FILES = ("resnet", "vgg", "mobilenet_v2", "mobilenet_v3", "efficientnet")

ENCODERS: dict[str, registry.Builder] = registry.gather(__name__, _FILES, "ENCODERS")
"""The builders of all families by name."""
globals().update(ENCODERS)


if TYPE_CHECKING:

    def __getattr__(name: str) -> registry.Builder: ...


def names() -> list[str]:
    """Returns the names that `create` knows.

    >>> names()[:2]
    ['resnet18', 'resnet34']
    """
    return list(ENCODERS)


def create(name: str, **options: Any) -> Any:
    """Builds an encoder by name.

    Args:
        name: One of `names()`, or `"package.module:builder"` for a builder of your own.
        **options: Arguments of the builder, such as `in_channels`, `depth` or `output_stride`.

    Returns:
        The Linen module.

    Raises:
        InputError: If the name or an option is unknown, or the builder cannot use a value.

    >>> create("resnet18", depth=3).strides
    (2, 4, 8)
    """
    builder = registry.find("encoder", name, ENCODERS)
    registry.check_options(f"encoder {name!r}", builder, options)
    return registry.build(f"encoder {name!r}", builder, options)


def options(name: str) -> list[str] | None:
    """Returns the options of an encoder's builder, or None if it takes any.

    Args:
        name: As for `create`.

    >>> options("resnet18")
    ['in_channels', 'depth', 'output_stride', 'dilate_first', 'dtype', 'param_dtype']
    """
    return registry.options(registry.find("encoder", name, ENCODERS))
