"""BatchNorm layers in a training step: frozen statistics, and moments of the global batch for Flax's own layer."""

import contextlib
from collections.abc import Iterator, Sequence

import flax.linen as nn

from jaxseg import collective
from jaxseg.nn import BatchNorm
from jaxseg.tree_paths import check_prefixes, under_any


@contextlib.contextmanager
def intercept_batch_norm(frozen: Sequence[str] = ()) -> Iterator[None]:
    """Changes how BatchNorm layers behave in the models that are applied in the block.

    Layers under a frozen prefix normalize with their running statistics and do not update them, even with `train=True`.
    Flax's `BatchNorm` computes its moments over the global batch in every strategy, like `jaxseg.nn.BatchNorm`.

    Args:
        frozen: Prefixes of whole names of paths of layers, such as `("encoder",)`; `("",)` freezes every layer.

    Raises:
        InputError: At the end of the block, if a prefix matched no BatchNorm layer.
    """
    seen = set()

    def intercept(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, BatchNorm | nn.BatchNorm):
            return call(*args, **kwargs)
        path = "/".join(module.path)
        seen.add(path)
        is_frozen = under_any(path, frozen)
        if isinstance(module, nn.BatchNorm):
            return _call_flax(call, args, kwargs, module, is_frozen)
        return call(*args, **kwargs | ({"train": False} if is_frozen else {}))

    with nn.intercept_methods(intercept):
        yield
    check_prefixes(frozen, seen, "BatchNorm layer")


def _call_flax(call, args, kwargs, module: nn.BatchNorm, is_frozen: bool):
    fields = {}
    if module.axis_name in (None, collective.AXIS):
        fields["axis_name"] = collective.AXIS if collective.is_bound() else None
    if is_frozen:  # the option is a field, a positional argument or a keyword
        fields["use_running_average"] = True
        args = args[:1]
        kwargs = {name: value for name, value in kwargs.items() if name != "use_running_average"}
    before = {name: getattr(module, name) for name in fields}
    try:
        for name, value in fields.items():
            object.__setattr__(module, name, value)  # modules are frozen dataclasses
        return call(*args, **kwargs)
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)
