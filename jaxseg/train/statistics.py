"""What BatchNorm layers do during a training step, whoever wrote the model: frozen here, global everywhere."""

import contextlib
from collections.abc import Iterator, Sequence

import flax.linen as nn

from jaxseg import collective
from jaxseg.nn import BatchNorm
from jaxseg.train.paths import check_prefixes, under_any


@contextlib.contextmanager
def batch_norm(frozen: Sequence[str] = ()) -> Iterator[None]:
    """While the block runs, changes what BatchNorm layers of applied models do.

    Layers under a frozen prefix normalise with their running statistics and keep them, in training too. Flax's own
    `BatchNorm` takes its moments from the global batch in every strategy, as `jaxseg.nn.BatchNorm` does by itself.

    Args:
        frozen: Path prefixes of whole names, such as `("encoder",)`; `("",)` for every layer.

    Raises:
        InputError: When the block ends, if no BatchNorm layer under a prefix was applied.
    """
    seen = set()

    def intercept(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, BatchNorm | nn.BatchNorm):
            return call(*args, **kwargs)
        path = "/".join(module.path)
        seen.add(path)
        freeze = under_any(path, frozen)
        if isinstance(module, nn.BatchNorm):
            return _call_flax(call, args, kwargs, module, freeze)
        return call(*args, **kwargs | ({"train": False} if freeze else {}))

    with nn.intercept_methods(intercept):
        yield
    check_prefixes(frozen, seen, "BatchNorm layer")


def _call_flax(call, args, kwargs, module: nn.BatchNorm, freeze: bool):
    fields = {}
    if module.axis_name in (None, collective.AXIS):
        fields["axis_name"] = collective.AXIS if collective.is_bound() else None
    if freeze:  # the option may come from the field, by position or by name
        fields["use_running_average"] = True
        args = args[:1]
        kwargs = {name: value for name, value in kwargs.items() if name != "use_running_average"}
    before = {name: getattr(module, name) for name in fields}
    try:
        for name, value in fields.items():
            object.__setattr__(module, name, value)  # Flax refuses a plain assignment here
        return call(*args, **kwargs)
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)
