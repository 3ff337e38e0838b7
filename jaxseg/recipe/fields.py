"""A recipe: names and numbers that say how one model is trained, as frozen dataclasses.

The defaults are the run on the embedded `shapes` set. A file under `experiments/` holds one `recipe = Recipe(...)`;
the command line overrides single fields (`--optimizer.learning-rate 1e-3`); a run folder keeps it as `recipe.json`.
"""

import typing
from dataclasses import dataclass, field

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
    """Type of the computation, float32 or bfloat16; parameters and statistics stay float32."""
    freeze_encoder: bool = False
    """Keep the encoder's parameters as they are."""
    freeze: tuple[str, ...] = ()
    """Further parts whose parameters stay as they are, by path, such as encoder/stem encoder/stage1_block0."""
    freeze_statistics: typing.Literal["none", "encoder", "all"] = "none"
    """Whose BatchNorm layers use and keep their stored statistics while training."""


@dataclass(frozen=True)
class DataRecipe:
    """The data set, the meaning of its labels, and how it is loaded."""

    source: str = "shapes"
    """shapes (made by the library), camvid (SegNet's layout), folder (images and masks), file_list (pairs in a text file),
    tfds, or "package.module:ClassName" for a dataclass of options of your own."""
    root: str | None = None
    """The data set's folder (camvid, folder, file_list), or the TFDS data directory."""
    options: dict[str, Option] = field(default_factory=dict)
    """Options of the source, such as images "x/{split}" masks "y/{split}" (folder), list "{split}.txt" (file_list), name
    oxford_iiit_pet (tfds) or size 64 64 (shapes)."""
    train_split: str = "train"
    """The split for training."""
    validation_split: str = "val"
    """The split for validation after each epoch."""
    test_split: str | None = None
    """A split on which the best checkpoint is evaluated after training."""
    num_classes: int | None = None
    """Number of classes, if the source does not know it. 1 stands for one sigmoid (labels 0 and 1)."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, for tables and reports."""
    ignore_index: int = 255
    """The label, after the label map, of pixels that losses and metrics ignore."""
    label_map: dict[int, int | None] | None = None
    """From ids in the masks to train ids (or ignore_index, or none): merges, drops and renumbers classes."""
    reduce_zero_label: bool = False
    """Ignore label 0 and decrease every other label by one (ADE20K's convention)."""
    unreadable: typing.Literal["stop", "skip"] = "stop"
    """Action for an image that cannot be read: stop and save the run, or skip the image and list it."""
    workers: int = 0
    """Worker processes that decode and augment; 0 uses threads of the main process."""
    on_device: bool = False
    """Load the training images, which must have one size, into device memory, and augment them there; on GPUs and TPUs
    the steps between two lines of the log are then one program."""
    rare_class_temperature: float | None = None
    """Sample images that hold rare classes more often (rare class sampling; DAFormer's temperature is 0.01, a smaller one
    prefers them more); none goes through all images in each epoch."""


@dataclass(frozen=True)
class AugmentRecipe:
    """The augmentation of training images with their targets; evaluation has none."""

    crop_size: tuple[int, int] | None = None
    """Height and width of the training crop; by default those of the data set's first image."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the random scale before the crop; 0.5 2.0 is usual for photographs."""
    flip: bool = True
    """Flip left to right with probability 1/2."""
    photometric: bool = False
    """Jitter brightness, contrast, saturation and hue."""
    rotate: float = 0.0
    """The largest angle in degrees (with data.on_device)."""
    elastic: float = 0.0
    """Standard deviation of an elastic deformation in pixels, 10 in U-Net's paper (with data.on_device)."""
    blur: float = 0.0
    """The largest standard deviation of a Gaussian blur in pixels (with data.on_device)."""
    cutmix: float = 0.0
    """Probability of pasting a box of another image (with data.on_device)."""
    copy_paste: float = 0.0
    """Probability of pasting classes of another image (with data.on_device)."""
    mosaic: float = 0.0
    """Probability of a mosaic of four images (with data.on_device)."""


@dataclass(frozen=True)
class LossRecipe:
    """A weighted sum of losses."""

    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each loss by name, such as cross_entropy 1 dice 0.5, or "package.module:loss" for one of your own; left
    out, the task's default (semantic: cross_entropy 1 dice 1)."""
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
    """Decay of the learning rate to zero after the warm-up; poly is (1 - t)^0.9."""
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
    """Duration, batch, devices."""

    epochs: int = 3
    """Number of passes over the training set; each ends with a validation."""
    batch_size: int = 16
    """Images in a step, over all devices."""
    seed: int = 0
    """Initial weights, order, augmentation and dropout depend on it alone."""
    patience: int | None = None
    """Stop after this number of epochs in a row without a better headline score; none never stops early."""
    parallel: typing.Literal["jit", "pmap", "shard_map"] = "jit"
    """Distribution of a batch over the devices; the result is the same."""
    devices: int | None = None
    """Number of devices of each process to use; none uses all."""
    spatial_shards: int = 1
    """Number of devices that share the rows of each image, where one cannot hold an image (jit)."""
    fsdp: bool = False
    """Shard parameters and optimizer state over the devices instead of a copy on each (jit)."""
    micro_batches: int = 1
    """Number of parts of a batch that are in memory one after the other; the gradient is the whole batch's."""
    rematerialize: bool = False
    """Keep the results of convolutions and compute the maps between them again for the gradient, to save memory."""
    ema_decay: float | None = None
    """Fraction of an average of the parameters that a step retains, such as 0.999; less in the first steps. The average is
    then evaluated."""
    log_every: int = 10
    """Steps between two lines of the log."""
    max_skipped: int = 10
    """Stop after this number of updates in a row were skipped, for a loss or gradient that is not finite."""


@dataclass(frozen=True)
class EvalRecipe:
    """Evaluation of images: in validation, `jaxseg evaluate`, `jaxseg predict` and `jaxseg report`."""

    batch_size: int | None = None
    """Images evaluated at once; left out, the training batch size."""
    window: tuple[int, int] | None = None
    """Height and width of overlapping windows in pixels; none evaluates whole images."""
    overlap: float = 0.25
    """The part of a window that the next one covers."""
    blend: typing.Literal["gaussian", "constant"] = "gaussian"
    """Weights of a window's pixels in the mean."""
    flips: tuple[typing.Literal["horizontal", "vertical"], ...] = ()
    """Flips of the images over which outputs are averaged, besides none."""
    rotations: tuple[int, ...] = (0,)
    """Degrees, multiples of 90, over which outputs are averaged."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of the images' size over which outputs are averaged."""


@dataclass(frozen=True)
class Recipe:
    """All names and numbers that determine a training run.

    >>> recipe = Recipe(train=TrainRecipe(epochs=2))
    >>> recipe.train.epochs, recipe.task
    (2, 'semantic')
    """

    task: str = "semantic"
    """The task, or "package.module:Task" for one of your own."""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    eval: EvalRecipe = field(default_factory=EvalRecipe)
