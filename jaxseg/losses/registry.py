"""Losses by name: the mappings at the ends of this package's files."""

from jaxseg import registry

_FILES = (
    "boundary",
    "cldice",
    "focal",
    "generalized_dice",
    "lovasz",
    "mcc",
    "ohem",
    "pixelwise",
    "region",
)

LOSSES: dict[str, registry.Builder] = registry.gather("jaxseg.losses", _FILES, "LOSSES")
"""Functions `(logits, labels, *, ignore_index, class_weights, ...) -> scalar` by name."""


def names() -> list[str]:
    """Returns the names of the losses that recipes and `make_loss_fn` know.

    >>> names()[:4]
    ['boundary', 'cross_entropy', 'dice', 'focal']
    """
    return sorted(LOSSES)
