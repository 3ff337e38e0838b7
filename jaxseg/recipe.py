"""A recipe: names and numbers that say how one model is trained, as frozen dataclasses.

The defaults are the run on the embedded `shapes` set. A file under `experiments/` holds one `recipe = Recipe(...)`;
the command line overrides single fields (`--optimizer.learning-rate 1e-3`); a run folder keeps it as `recipe.json`.
"""

import contextlib
import dataclasses
import json
import runpy
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxseg.errors import InputError, unknown

Option = bool | int | float | str | None | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class ModelRecipe:
    """Which network, from which weights, and what of it stays as it is."""

    name: str = "unet"
    """An architecture that `jaxseg models` lists."""
    encoder: str | None = None
    """An encoder that `jaxseg models` lists, or "package.module:builder" for one of your own; left out, resnet18, or
    none where the architecture has none to choose."""
    options: dict[str, Option] = field(default_factory=dict)
    """Options of the architecture's builder, such as upsample transposed."""
    encoder_options: dict[str, Option] = field(default_factory=dict)
    """Options of the encoder's builder, such as output_stride."""
    pretrained: str | None = None
    """Weights: a hub name such as timm/resnet34.a1_in1k, or a local .safetensors file. Those of a classifier fill the
    encoder, those of a whole network all of it."""
    mean: tuple[float, ...] | None = None
    """Mean of each image channel in 0..1; left out, that of the pretrained weights or of ImageNet."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each image channel in 0..1, like the mean."""
    dtype: str = "float32"
    """What the network computes in, float32 or bfloat16; parameters and statistics stay float32."""
    freeze_encoder: bool = False
    """Keep the encoder's parameters as they are."""
    freeze: tuple[str, ...] = ()
    """Further parts whose parameters stay as they are, by path, such as encoder/stem encoder/stage1_block0."""
    freeze_statistics: typing.Literal["none", "encoder", "all"] = "none"
    """Whose BatchNorm layers use and keep their stored statistics while training."""


@dataclass(frozen=True)
class DataRecipe:
    """Where images and masks come from, and what their labels mean."""

    source: str = "shapes"
    """shapes (drawn by the library), camvid (SegNet's layout), folder (images and masks), or tfds."""
    root: str | None = None
    """The data set's folder (camvid, folder), or the TFDS data directory."""
    name: str | None = None
    """The TFDS data set, such as oxford_iiit_pet."""
    manual_dir: str | None = None
    """tfds: where the files lie that a data set wants downloaded by hand."""
    images: str | None = None
    """folder: the images' folder inside root when the layout is your own; {split} is filled in. Without {split} a
    fixed tenth of the images is kept for validation."""
    masks: str | None = None
    """folder: the masks' folder, like images."""
    list: str | None = None
    """folder: a text file inside root with an image and a mask on each line, relative to root; {split} is filled in."""
    train_split: str = "train"
    """The split that is trained on."""
    validation_split: str = "val"
    """The split that is validated on after each epoch."""
    test_split: str | None = None
    """A split that the best checkpoint is evaluated on once training has ended."""
    num_classes: int | None = None
    """Number of classes; known already for shapes and camvid. 1 stands for one sigmoid (labels 0 and 1)."""
    classes: tuple[str, ...] | None = None
    """The classes' names, for tables and reports."""
    ignore_index: int = 255
    """The label, after the label map, that counts nowhere."""
    image_suffix: str = ""
    """folder: what the stems of images end in and those of masks do not, such as _leftImg8bit."""
    mask_suffix: str = ""
    """folder: what the stems of masks end in and those of images do not, such as _mask."""
    label_map: dict[int, int | None] | None = None
    """From ids in the masks to train ids (or ignore_index, or none): merges, drops and renumbers classes."""
    reduce_zero_label: bool = False
    """Label 0 is ignored and every other label is one less (ADE20K's convention)."""
    size: tuple[int, int] = (64, 64)
    """shapes: height and width of the drawn images in pixels."""
    train_length: int = 1280
    """shapes: how many training images are drawn."""
    validation_length: int = 128
    """shapes: how many validation (and test) images are drawn."""
    unreadable: typing.Literal["stop", "skip"] = "stop"
    """What an image does that cannot be read: stop the run, which is saved, or be skipped and listed."""
    workers: int = 0
    """Worker processes that decode and augment; 0 does it in threads of the main process."""
    on_device: bool = False
    """Keep the training images, which must have one size, on the devices, and augment them there; steps between two
    lines of the log are then one program (on GPUs and TPUs)."""
    rare_class_temperature: float | None = None
    """Draw images that hold rare classes more often (rare class sampling; DAFormer's temperature is 0.01, a smaller one
    prefers them more); none goes through all images in turn."""


@dataclass(frozen=True)
class AugmentRecipe:
    """What happens to a training image and its mask, jointly; nothing of it in evaluation."""

    crop_size: tuple[int, int] | None = None
    """Height and width of the training crop; left out, that of the data set's first image."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the random scale before the crop; 0.5 2.0 is usual for photographs."""
    flip: bool = True
    """Flip horizontally, half of the time."""
    photometric: bool = False
    """Jitter brightness, contrast, saturation and hue."""
    rotate: float = 0.0
    """data.on_device: the greatest angle in degrees."""
    elastic: float = 0.0
    """data.on_device: standard deviation of an elastic deformation in pixels; 10 is U-Net's."""
    blur: float = 0.0
    """data.on_device: the greatest standard deviation of a Gaussian blur in pixels."""
    cutmix: float = 0.0
    """data.on_device: how often a box of another image is put in, in 0..1."""
    copy_paste: float = 0.0
    """data.on_device: how often classes of another image are pasted in, in 0..1."""
    mosaic: float = 0.0
    """data.on_device: how often four images are put together, in 0..1."""


@dataclass(frozen=True)
class LossRecipe:
    """A weighted sum of losses."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy (of the sigmoid where num_classes is 1)."""
    dice: float = 1.0
    """Weight of the Dice loss."""
    jaccard: float = 0.0
    """Weight of the Jaccard loss."""
    focal: float = 0.0
    """Weight of the focal loss (option gamma)."""
    poly: float = 0.0
    """Weight of the Poly-1 loss (option epsilon)."""
    ohem: float = 0.0
    """Weight of the cross-entropy of hard pixels alone (options threshold, min_kept)."""
    topk: float = 0.0
    """Weight of the cross-entropy of the worst pixels alone (option fraction)."""
    generalized_dice: float = 0.0
    """Weight of the generalised Dice loss."""
    log_cosh_dice: float = 0.0
    """Weight of log cosh of the Dice loss."""
    tversky: float = 0.0
    """Weight of the Tversky loss (options alpha, beta)."""
    focal_tversky: float = 0.0
    """Weight of the focal Tversky loss (options alpha, beta, gamma)."""
    lovasz_softmax: float = 0.0
    """Weight of the Lovasz-softmax loss."""
    lovasz_hinge: float = 0.0
    """Weight of the Lovasz hinge loss."""
    mcc: float = 0.0
    """Weight of the Matthews correlation loss."""
    soft_cldice: float = 0.0
    """Weight of the centreline Dice loss (options iterations, smooth)."""
    boundary: float = 0.0
    """Weight of the boundary loss; add it to a region loss."""
    hausdorff: float = 0.0
    """Weight of the Hausdorff loss (option alpha)."""
    options: dict[str, Option] = field(default_factory=dict)
    """Options of losses by name, such as tversky.alpha 0.2."""
    class_weights: tuple[float, ...] | None = None
    """Weight of each class."""
    aux_weight: float = 0.4
    """Weight of the auxiliary heads' losses, where the network has such heads."""
    aux_weights: tuple[float, ...] | None = None
    """Weight of each auxiliary head in turn (deep supervision), instead of one for all."""


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer and its learning rate over time."""

    name: str = "adamw"
    """adamw, sgd with Nesterov-free momentum 0.9, or "package.module:builder" for any optax transformation, such as
    optax:lion: the builder takes the learning rate over time, and the options."""
    options: dict[str, Option] = field(default_factory=dict)
    """Options of the optimizer's builder, such as b2 0.99."""
    learning_rate: float = 1.5e-3
    """The highest learning rate."""
    schedule: typing.Literal["cosine", "poly"] = "cosine"
    """How the learning rate falls to zero after the warm-up; poly is (1 - t)^0.9."""
    warmup: float = 0.1
    """The part of all steps over which the learning rate rises linearly from zero."""
    weight_decay: float = 1e-2
    """Weight decay of the kernels (biases and normalisation have none) by adamw and sgd; other optimizers take theirs
    from their options."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; none leaves it as it is."""
    rate_factors: dict[str, float] = field(default_factory=dict)
    """Multiples of the learning rate for parts, by path, such as encoder 0.1."""


@dataclass(frozen=True)
class TrainRecipe:
    """How long, how much at once, on what."""

    epochs: int = 3
    """How many times the training set is gone through; each ends with a validation."""
    batch_size: int = 16
    """Images in a step, over all devices."""
    eval_batch_size: int | None = None
    """Images evaluated at once; left out, the training batch size."""
    seed: int = 0
    """Initial weights, order, augmentation and dropout depend on it alone."""
    patience: int | None = None
    """Stop after this many epochs in a row without a better validation mIoU; none never does."""
    parallel: typing.Literal["jit", "pmap", "shard_map"] = "jit"
    """How a batch is spread over the devices; the result is the same."""
    devices: int | None = None
    """How many devices of each process to use; none takes them all."""
    bands: int = 1
    """Into how many bands the rows of each image are cut, a device for each, where one cannot hold an image (jit)."""
    cut_state: bool = False
    """Cut parameters and optimizer state over the devices instead of keeping a copy on each (jit)."""
    micro_batches: int = 1
    """Into how many parts a batch is cut that are in memory one after the other; the gradient is the whole batch's."""
    rematerialize: bool = False
    """Keep what convolutions give, and compute the maps between them again for the gradient, to save memory."""
    ema_decay: float | None = None
    """How much of an average of the parameters a step keeps, such as 0.999; the average is then what is evaluated."""
    log_every: int = 10
    """Steps between two lines of the log."""
    max_skipped: int = 10
    """Stop once so many updates in a row were skipped, for a loss or gradient that is not finite."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run does.

    >>> recipe = Recipe(train=TrainRecipe(epochs=2))
    >>> from_dict(to_dict(recipe)) == recipe
    True
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values that JSON can hold (keys of `label_map` become strings there)."""
    return dataclasses.asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """The inverse of `to_dict`, also after a trip through JSON.

    Raises:
        InputError: A field is unknown or its value has another type.
    """
    return _read(Recipe, values, "recipe")


def save(recipe: Recipe, path: Path) -> None:
    """Writes the recipe as JSON."""
    aside = path.with_name(path.name + ".new")  # a kill leaves the old one whole
    aside.write_text(json.dumps(to_dict(recipe), indent=2) + "\n")
    aside.replace(path)


def load(path: str | Path) -> Recipe:
    """A recipe from a `.json` that `save` wrote, or from a `.py` that defines `recipe = Recipe(...)`.

    A `.py` is run: load no file that you would not run yourself.

    Raises:
        InputError: The file is missing or holds no recipe.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no recipe file {path}")
    if path.suffix == ".json":
        try:
            return from_dict(json.loads(path.read_text()))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error
    try:
        recipe = runpy.run_path(str(path)).get("recipe")
    except Exception as error:  # whatever the file's own code raises
        raise InputError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path} defines no `recipe = jaxseg.Recipe(...)`")
    return recipe


def checked(recipe: Recipe) -> Recipe:
    """The recipe as a run folder will give it back: plain values of the declared types, within their ranges.

    Raises:
        InputError: A value of another type, or out of range.

    >>> checked(Recipe(augment=AugmentRecipe(crop_size=[64, 64]))).augment.crop_size
    (64, 64)
    """
    try:
        text = json.dumps(to_dict(recipe), default=_plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"a recipe holds plain values only: {error}") from error
    recipe = from_dict(json.loads(text))
    least = {
        "train.epochs": 1,
        "train.batch_size": 1,
        "train.eval_batch_size": 1,
        "train.seed": 0,
        "train.patience": 1,
        "train.devices": 1,
        "train.bands": 1,
        "train.micro_batches": 1,
        "train.log_every": 1,
        "train.max_skipped": 1,
        "data.workers": 0,
    }
    for name, bound in least.items():
        part, leaf = name.split(".")
        value = getattr(getattr(recipe, part), leaf)
        if value is not None and value < bound:
            raise InputError(f"{name} is {value}, it is at least {bound}")
    return recipe


def _plain(value: Any) -> Any:
    """What JSON does not know, as it does: paths, and NumPy's numbers."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r}")


def differences(old: Recipe, new: Recipe) -> list[str]:
    """One line for each field in which two recipes differ.

    >>> differences(Recipe(), Recipe(train=TrainRecipe(epochs=7)))
    ['train.epochs: 3 -> 7']
    """
    lines = []
    for part in dataclasses.fields(Recipe):
        before, after = getattr(old, part.name), getattr(new, part.name)
        for leaf in dataclasses.fields(before):
            a, b = getattr(before, leaf.name), getattr(after, leaf.name)
            if a != b:
                lines.append(f"{part.name}.{leaf.name}: {a!r} -> {b!r}")
    return lines


def _read(kind: Any, value: Any, place: str) -> Any:
    """`value`, as JSON has it, in the type that a field is declared with."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{place} must be an object, not {value!r}")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise unknown("recipe field", f"{place}.{name}", [f"{place}.{n}" for n in hints])
        return kind(**{name: _read(hints[name], v, f"{place}.{name}") for name, v in value.items()})
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            try:
                return _read(option, value, place)
            except InputError:
                continue
    elif origin is typing.Literal and value in arguments:
        return value
    elif origin is dict and isinstance(value, dict):
        with contextlib.suppress(ValueError):
            keys = [arguments[0](key) for key in value]
            items = zip(keys, value.values(), strict=True)
            return {k: _read(arguments[1], v, f"{place}[{k}]") for k, v in items}
    elif origin is tuple and isinstance(value, list | tuple):
        items = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(items) == len(value):
            return tuple(_read(k, v, place) for k, v in zip(items, value, strict=True))
    elif kind is types.NoneType and value is None:
        return None
    elif (kind is float and type(value) is int) or (isinstance(kind, type) and type(value) is kind):
        return float(value) if kind is float else value
    raise InputError(f"{place} cannot be {value!r}")
