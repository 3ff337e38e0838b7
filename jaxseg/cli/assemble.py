"""From a recipe's names and numbers to model, loss and optimizer; step.py has its step, sources.py its data."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import compiler, data, encoders, losses, models, pretrained
from jaxseg.cli.folder import Facts, environment
from jaxseg.errors import InputError, unknown
from jaxseg.recipe import AugmentRecipe, ModelRecipe, OptimizerRecipe, Recipe
from jaxseg.train import optimizers
from jaxseg.train.layout import fully_sharded, whole
from jaxseg.train.norm import clip_by_global_norm
from jaxseg.train.parallel import Parallel
from jaxseg.train.rates import scale_rates
from jaxseg.train.variables import make_init
from jaxseg.typing import Array, Key, Variables

_ENCODER = "resnet18"
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def augmentation(
    recipe: AugmentRecipe, size: tuple[int, int], ignore_index: int
) -> "data.TrainAugment":  # whose module imports albumentations
    """The training augmentation, with crops of the recipe's size or else of `size`."""
    return data.TrainAugment(
        recipe.crop_size or size,
        scale=recipe.scale,
        flip=recipe.flip,
        photometric=recipe.photometric,
        ignore_index=ignore_index,
    )


def resolve(recipe: Recipe, train_source: Any) -> Facts:
    """What the recipe leaves to the data set and to the pretrained weights."""
    record = train_source[0]
    channels = record["image"].shape[-1]
    weights = recipe.model.pretrained
    weights = None if weights is None else pretrained.pin(weights)
    mean, std = _normalization(recipe.model, weights, channels)
    return Facts(
        num_classes=train_source.num_classes,
        classes=tuple(train_source.classes),
        palette=tuple(map(tuple, np.asarray(train_source.palette).tolist())),
        ignore_index=train_source.ignore_index,
        channels=channels,
        mean=mean,
        std=std,
        image_size=record["image"].shape[:2],
        train_images=len(train_source),
        steps_per_epoch=max(1, len(train_source) // recipe.train.batch_size),
        pretrained=weights,
        environment=environment(),
    )


def _normalization(
    recipe: ModelRecipe, weights: str | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = data.IMAGENET_MEAN, data.IMAGENET_STD
    if weights is not None:
        mean, std = pretrained.normalization(weights)
    if channels != len(mean):  # other sensors: what is known of RGB says nothing of them
        mean, std = (0.5,) * channels, (0.25,) * channels
    return tuple(recipe.mean or mean), tuple(recipe.std or std)


@dataclass(frozen=True)
class Network:
    """A model and the function that its images go through first, on the device."""

    model: Any
    preprocess: Callable[[Array], Array]
    channels: int

    @functools.cached_property
    def init(self) -> Callable[[Key], Variables]:
        """Random variables of a key."""
        return make_init(self.model, channels=self.channels)

    def shapes(self) -> Variables:
        """The variables' shapes and types, without computing them."""
        with compiler.uncollected():
            return jax.eval_shape(self.init, jax.random.key(0))


def encoder_of(recipe: ModelRecipe) -> str | None:
    """The encoder that the recipe names or, left out, means; None where the architecture has none to choose."""
    if recipe.encoder is None and models.takes_encoder(recipe.name):
        return _ENCODER
    return recipe.encoder


def title(recipe: ModelRecipe) -> str:
    """The network in words, such as "unet with resnet18"."""
    encoder = encoder_of(recipe)
    return recipe.name if encoder is None else f"{recipe.name} with {encoder}"


def network(recipe: ModelRecipe, facts: Facts) -> Network:
    """The recipe's model for what the data set holds."""
    if recipe.dtype not in _DTYPES:
        raise unknown("dtype", recipe.dtype, _DTYPES)
    types = {} if recipe.dtype == "float32" else {"dtype": _DTYPES[recipe.dtype]}
    encoder = encoder_of(recipe)
    known = [] if encoder is None else encoders.options(encoder)
    named = facts.channels != 3 and (known is None or "in_channels" in known)
    channels = {"in_channels": facts.channels} if named else {}  # others infer them
    model = models.create(
        recipe.name,
        encoder=encoder,
        num_classes=facts.num_classes,
        encoder_options={**channels, **recipe.encoder_options},
        **{**types, **recipe.options},
    )
    return Network(model, data.normalize(facts.mean, facts.std), facts.channels)


def loss(recipe: Recipe, facts: Facts) -> Callable[..., Any]:
    """The recipe's weighted sum of losses."""
    terms = {name: getattr(recipe.loss, name) for name in losses.names()}
    options: dict[str, dict[str, Any]] = {}
    for key, value in recipe.loss.options.items():
        name, _, option = key.partition(".")
        options.setdefault(name, {})[option] = value
    if recipe.loss.class_weights is not None and len(recipe.loss.class_weights) != len(
        facts.classes
    ):
        raise InputError(
            f"{len(recipe.loss.class_weights)} class weights for {len(facts.classes)} classes"
        )
    return losses.make_loss_fn(
        {name: weight for name, weight in terms.items() if weight},
        ignore_index=facts.ignore_index,
        class_weights=recipe.loss.class_weights,
        aux_weight=recipe.loss.aux_weight,
        aux_weights=recipe.loss.aux_weights,
        options=options,
    )


def learning_rate(recipe: Recipe, steps: int) -> optax.Schedule:
    """The learning rate over `steps` optimizer steps."""
    build = {"cosine": optimizers.cosine, "poly": optimizers.poly}[recipe.optimizer.schedule]
    return build(
        recipe.optimizer.learning_rate, steps, warmup_steps=round(recipe.optimizer.warmup * steps)
    )


def optimizer(recipe: Recipe, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The recipe's optimizer."""
    chain = _chain(recipe.optimizer, schedule)
    if recipe.optimizer.rate_factors:
        chain = scale_rates(chain, recipe.optimizer.rate_factors)
    frozen = (*(("encoder",) if recipe.model.freeze_encoder else ()), *recipe.model.freeze)
    return optimizers.freeze(chain, frozen) if frozen else chain


def _chain(recipe: OptimizerRecipe, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer of that name, or the one that a builder elsewhere makes."""
    what, known = f"optimizer {recipe.name!r}", {"adamw": optimizers.adamw, "sgd": optimizers.sgd}
    own = ":" in recipe.name
    if not own and recipe.name not in known:
        raise unknown("optimizer", recipe.name, [*known, "package.module:builder"])
    builder = encoders.find_builder(recipe.name) if own else known[recipe.name]
    encoders.check_options(what, builder, recipe.options)
    if not own:
        fields = {"weight_decay": recipe.weight_decay, "clip_norm": recipe.clip_norm}
        if twice := sorted(set(fields) & set(recipe.options)):
            raise InputError(f"{what}: {twice[0]} is a field of the recipe, not one of its options")
        builder = functools.partial(builder, **fields)
    chain = encoders.build(what, functools.partial(builder, schedule), recipe.options)
    if not isinstance(chain, optax.GradientTransformation):
        raise InputError(
            f"{what} gave an object of type {type(chain).__name__}, not an optax transformation"
        )
    if own and recipe.clip_norm is not None:
        chain = optax.chain(clip_by_global_norm(recipe.clip_norm), chain)
    return chain


def parallel(recipe: Recipe, devices: Sequence[Any] | None = None) -> Parallel:
    """The recipe's strategy over as many of the devices as it asks for: by default those of each process, in turn."""
    wanted = recipe.train.devices
    if devices is None:
        shares = [jax.local_devices(process_index=i) for i in range(jax.process_count())]
    else:
        shares = [devices]
    for index, share in enumerate(shares):
        if not 1 <= (wanted or 1) <= len(share):
            whose = f" in process {index}" if len(shares) > 1 else ""
            raise InputError(f"train.devices is {wanted}, but there are {len(share)}{whose}")
    counts = {len(share[:wanted]) for share in shares}
    if len(counts) > 1:
        raise InputError(
            f"processes have {min(counts)} to {max(counts)} devices: give each as many (--train.devices {min(counts)})"
        )
    devices = [device for share in shares for device in share[:wanted]]
    built = Parallel(
        recipe.train.parallel,
        devices,
        bands=recipe.train.bands,
        layout=fully_sharded() if recipe.train.cut_state else whole,
    )
    parts = len(devices) // recipe.train.bands
    for size in (recipe.train.batch_size, recipe.train.eval_batch_size):
        if size is not None and (size < 1 or size % parts):
            holders = "devices" if parts == len(devices) else "groups of devices"
            fewer = "use fewer (--train.devices)"
            if len(shares) > 1:
                holders += f" in {len(shares)} processes"
                fewer = f"{fewer}, or start fewer processes"
            raise InputError(
                f"a batch of {size} cannot be divided over {parts} {holders}: make it a multiple, or {fewer}"
            )
    micro = recipe.train.micro_batches
    if recipe.train.batch_size % (parts * micro):
        raise InputError(
            f"{recipe.train.batch_size // parts} images on a device cannot be cut into {micro} micro-batches: make "
            f"--train.batch-size a multiple of {parts * micro}"
        )
    return built
