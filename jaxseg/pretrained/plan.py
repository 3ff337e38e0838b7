"""The names that a model's variables have in a library, put together from the specs of its parts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxseg.errors import InputError, unknown
from jaxseg.pretrained.encoders import ENCODERS
from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.models import MODELS
from jaxseg.pretrained.weights import SOURCES, EncoderWeights, Layout, ModelWeights, find

Spec = EncoderWeights | ModelWeights


@dataclass(frozen=True)
class Plan:
    """A plan to fill a model from a file of a library.

    Attributes:
        key_map: The names.
        parts: The modules of the model that it fills; empty for all.
        stem: PyTorch name of the first kernel.
    """

    key_map: KeyMap
    parts: tuple[str, ...]
    stem: str | None


def make_plan(
    model: Any, source: str, names: Iterable[str] | None = None, specs: Iterable[Spec] = ()
) -> Plan:
    """Makes the plan by which a library's file fills a model, or its encoder.

    Args:
        model: A model, a `Classifier` or an encoder.
        source: The library.
        names: Names in the file. They tell whether a file of torchvision holds a whole network or
            an encoder; without them it is a whole network, if torchvision has it.
        specs: Specs for modules that jaxseg does not know.

    Raises:
        InputError: If there is no spec for a module, or the library does not have the model.
    """
    specs = tuple(specs)
    encoder, weights = _encoder_weights(model, specs)
    decoder = getattr(model, "decoder", model)
    spec = find(model, specs, MODELS) or find(decoder, specs, MODELS)
    layouts: Mapping[str, Layout] = {} if spec is None else spec.layouts
    known = {*SOURCES, *weights.sources, *layouts}
    if source not in known:
        raise unknown("source", source, known)
    layout = layouts.get(source)
    if layout is not None and _fits(layout, source, names):
        return _plan_of_layout(layout, model, weights, source)
    key_map = weights.key_map(encoder, source) + KeyMap((), weights.ignored)
    if encoder is model:
        if source not in weights.sources:
            raise _not_there(encoder, source, weights.sources)
        return Plan(key_map, (), key_map.kernel(weights.stem))
    if not (_has_encoders(source) and source in weights.sources):
        raise _not_there(decoder, source, layouts)
    key_map = key_map.under("encoder")
    return Plan(key_map, ("encoder",), key_map.kernel(f"encoder/{weights.stem}"))


def _encoder_weights(model: Any, specs: tuple[Spec, ...]) -> tuple[Any, EncoderWeights]:
    """Returns a model's encoder, or the encoder itself, and its spec."""
    encoder = getattr(model, "encoder", model)
    weights = find(encoder, specs, ENCODERS)
    if weights is None:
        families = sorted(spec.module.partition(":")[2] for spec in ENCODERS.values())
        raise InputError(
            f"there are no weights for the encoder {type(encoder).__name__}; jaxseg knows those of "
            f"{', '.join(families)}, and others by a spec, jaxseg.pretrained.EncoderWeights"
        )
    return encoder, weights


def _has_encoders(source: str) -> bool:
    return source not in SOURCES or SOURCES[source].has_encoders


def _fits(layout: Layout, source: str, names: Iterable[str] | None) -> bool:
    """Returns whether a file has the layout, if it may hold an encoder and nothing else."""
    if not layout.encoder or names is None or not _has_encoders(source):
        return True
    return any(name.startswith(f"{layout.encoder}.") for name in names)


def _plan_of_layout(layout: Layout, model: Any, weights: EncoderWeights, source: str) -> Plan:
    key_map = layout.key_map(model, weights)
    if layout.encoder is not None:
        encoder = weights.key_map(model.encoder, source).under("encoder", layout.encoder)
        key_map = encoder + key_map
    return Plan(key_map, layout.parts, key_map.kernel(f"encoder/{weights.stem}"))


def _not_there(module: Any, source: str, sources: Iterable[str]) -> InputError:
    others = sorted(
        spec.module.partition(":")[2] for spec in MODELS.values() if source in spec.layouts
    )
    ways = [f"its sources are {', '.join(sources)}"] if sources else []
    ways += [f"{source} has {', '.join(others)}"] if others else []
    ways += ["timm's and torchvision's files fill the encoder"]
    return InputError(f"source {source!r} has no {type(module).__name__}: {'; '.join(ways)}")
