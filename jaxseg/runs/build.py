"""Builds everything that a recipe names: task, model, loss, optimizer, train step. Every command starts here."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxseg import data, encoders, models, registry
from jaxseg.errors import InputError, unknown
from jaxseg.inference import SlidingWindow, TestTimeAugmentation
from jaxseg.parallel import Parallel
from jaxseg.recipe import EvalRecipe, ModelRecipe, OptimizerRecipe, Recipe
from jaxseg.runs.devices import make_parallel
from jaxseg.runs.info import RunInfo, task_of
from jaxseg.tasks import Task
from jaxseg.train import optimizers
from jaxseg.train.gradient_norm import clip_by_global_norm
from jaxseg.train.param_groups import freeze, scale_learning_rates
from jaxseg.train.remat import save_convolutions
from jaxseg.train.skip_nonfinite import skip_nonfinite
from jaxseg.train.state import create_state
from jaxseg.train.step import make_train_step
from jaxseg.typing import Array, LossFn, Variables

DEFAULT_ENCODER = "resnet18"
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Run:
    """A recipe's names and numbers as objects; nothing in it has been computed.

    Attributes:
        recipe: The recipe.
        info: The facts that the recipe leaves to its data.
        task: What is predicted.
        model: The network.
        eval_model: The network as evaluations call it: in windows, flipped, turned and resized as the recipe says.
        preprocess: Maps images to the network's input, on the device.
        loss_fn: `(output, batch) -> (scalar, logs)`.
        learning_rate: Step to learning rate.
        optimizer: The optax transformation, clipping and frozen parts included.
    """

    recipe: Recipe
    info: RunInfo
    task: Task
    model: Any
    eval_model: Any
    preprocess: Callable[[Array], Array]
    loss_fn: LossFn
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def title(self) -> str:
        """The network in words, such as "unet with resnet18"."""
        model = self.recipe.model
        return model.name if model.encoder is None else f"{model.name} with {model.encoder}"

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return self.recipe.train.epochs * self.info.steps_per_epoch

    @functools.cached_property
    def parallel(self) -> Parallel:
        """The devices; commands that need none never look for them."""
        return make_parallel(self.recipe)

    @functools.cached_property
    def variables_like(self) -> Variables:
        """Shapes and dtypes of the variables."""
        images = jax.ShapeDtypeStruct((1, 64, 64, self.info.channels), jnp.float32)
        return jax.eval_shape(self.model.init, jax.random.key(0), images)

    def train_step(self) -> Callable[..., Any]:
        """Returns the train step, not compiled; it skips updates that are not finite."""
        train, frozen = self.recipe.train, self.recipe.model.freeze_statistics
        step = make_train_step(
            self.model,
            self.optimizer,
            self.loss_fn,
            preprocess=self.preprocess,
            frozen_statistics={"none": (), "encoder": ("encoder",), "all": ("",)}[frozen],
            ema_decay=train.ema_decay,
            micro_batches=train.micro_batches,
            remat=save_convolutions if train.rematerialize else None,
        )
        return skip_nonfinite(step)

    def create_state(self, variables: Variables) -> Any:
        """Returns the training state at step 0."""
        ema = self.recipe.train.ema_decay is not None
        return create_state(variables, self.optimizer, ema=ema)

    def state_like(self) -> Any:
        """Shapes and dtypes of the training state."""
        return jax.eval_shape(self.create_state, self.variables_like)

    def batch_like(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a global training batch, as the host loads it."""
        size = self.recipe.augment.crop_size or self.info.image_size
        shape = (self.recipe.train.batch_size, *size)
        images = jax.ShapeDtypeStruct((*shape, self.info.channels), jnp.uint8)
        targets = {
            name: jax.ShapeDtypeStruct((*shape, *rest), dtype)
            for name, (rest, dtype) in self.info.targets.items()
        }
        return {"image": images, **targets}


def complete(recipe: Recipe, info: RunInfo) -> Recipe:
    """Returns the recipe with the defaults that depend on its other fields: the encoder and the weights of the losses."""
    model, loss = recipe.model, recipe.loss
    if model.encoder is None and models.takes_encoder(model.name):
        model = replace(model, encoder=DEFAULT_ENCODER)
    if not loss.weights:
        loss = replace(loss, weights=dict(task_of(recipe, info).loss_weights))
    return replace(recipe, model=model, loss=loss)


def build(recipe: Recipe, info: RunInfo) -> Run:
    """Builds everything that a recipe names.

    Args:
        recipe: The recipe, as returned by `complete`.
        info: The facts of its data set, from `info.resolve` or from a run folder.

    Raises:
        InputError: A name or an option is unknown, or values do not fit together.
    """
    task = task_of(recipe, info)
    steps = recipe.train.epochs * info.steps_per_epoch
    rate = _learning_rate(recipe.optimizer, steps)
    model = _model(recipe.model, info, task)
    return Run(
        recipe=recipe,
        info=info,
        task=task,
        model=model,
        eval_model=_eval_model(model, recipe.eval, task),
        preprocess=data.normalize(info.mean, info.std),
        loss_fn=_loss(recipe, task),
        learning_rate=rate,
        optimizer=_optimizer(recipe, rate),
    )


def _model(recipe: ModelRecipe, info: RunInfo, task: Task) -> Any:
    if recipe.dtype not in _DTYPES:
        raise unknown("dtype", recipe.dtype, _DTYPES)
    types = {} if recipe.dtype == "float32" else {"dtype": _DTYPES[recipe.dtype]}
    known = [] if recipe.encoder is None else encoders.options(recipe.encoder)
    named = info.channels != 3 and (known is None or "in_channels" in known)
    channels = {"in_channels": info.channels} if named else {}  # other encoders infer them
    return models.create(
        recipe.name,
        encoder=recipe.encoder,
        encoder_options={**channels, **recipe.encoder_options},
        **{**task.model_options, **types, **recipe.options},
    )


def _eval_model(model: Any, recipe: EvalRecipe, task: Task) -> Any:
    if recipe.window is not None:
        model = SlidingWindow(model, recipe.window, recipe.overlap, recipe.blend)
    if recipe.flips or recipe.rotations != (0,) or recipe.scales != (1.0,):
        options = recipe.flips, recipe.rotations, recipe.scales
        model = TestTimeAugmentation(model, *options, task.averaging)
    return model


def _loss(recipe: Recipe, task: Task) -> LossFn:
    options: dict[str, dict[str, Any]] = {}
    for key, value in recipe.loss.options.items():
        name, _, option = key.rpartition(".")
        options.setdefault(name, {})[option] = value
    return task.make_loss(
        {name: weight for name, weight in recipe.loss.weights.items() if weight},
        options=options,
        class_weights=recipe.loss.class_weights,
        aux_weight=recipe.loss.aux_weight,
        aux_weights=recipe.loss.aux_weights,
    )


def _learning_rate(recipe: OptimizerRecipe, steps: int) -> optax.Schedule:
    schedule = {"cosine": optimizers.cosine, "poly": optimizers.poly}[recipe.schedule]
    return schedule(recipe.learning_rate, steps, warmup_steps=round(recipe.warmup * steps))


def _optimizer(recipe: Recipe, rate: optax.Schedule) -> optax.GradientTransformation:
    chain = _chain(recipe.optimizer, rate)
    if recipe.optimizer.rate_factors:
        chain = scale_learning_rates(chain, recipe.optimizer.rate_factors)
    frozen = (*(("encoder",) if recipe.model.freeze_encoder else ()), *recipe.model.freeze)
    return freeze(chain, frozen) if frozen else chain


def _chain(recipe: OptimizerRecipe, rate: optax.Schedule) -> optax.GradientTransformation:
    what, known = f"optimizer {recipe.name!r}", {"adamw": optimizers.adamw, "sgd": optimizers.sgd}
    builder = registry.find("optimizer", recipe.name, known)
    registry.check_options(what, builder, recipe.options)
    is_ours = recipe.name in known
    if is_ours:
        fields = {"weight_decay": recipe.weight_decay, "clip_norm": recipe.clip_norm}
        if twice := sorted(set(fields) & set(recipe.options)):
            raise InputError(f"{what}: {twice[0]} is a field of the recipe, not one of its options")
        builder = functools.partial(builder, **fields)
    chain = registry.build(what, functools.partial(builder, rate), recipe.options)
    if not isinstance(chain, optax.GradientTransformation):
        raise InputError(
            f"{what} returned an object of type {type(chain).__name__}, not an optax transformation"
        )
    if not is_ours and recipe.clip_norm is not None:
        chain = optax.chain(clip_by_global_norm(recipe.clip_norm), chain)
    return chain
