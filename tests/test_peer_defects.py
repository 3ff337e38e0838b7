"""One test for each defect that was found in a peer: jaxseg does not have it.

A docstring says what the peer does, in the version that was read or run: segmentation_models.pytorch (smp) 0.6.0, torchmetrics
1.9, and scenic, keras-hub, mmsegmentation and Hugging Face's example and `evaluate` of 2026.
"""

import ast
import functools
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.runs import make_run
from PIL import Image

import jaxseg
from jaxseg import encoders, losses, metrics, models, pretrained, recipe
from jaxseg.data import CamVid, Folder, LabelMap
from jaxseg.data.check import check, check_sample
from jaxseg.errors import InputError
from jaxseg.metrics import ConfusionMatrix, ImageMeans, MultilabelCounts
from jaxseg.models.unet import UNet

PACKAGE = Path(jaxseg.__file__).parent
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
ON_VGG = ("fcn_vgg_32s", "fcn_vgg_16s", "fcn_vgg_8s", "fcn_vgg_8s_at_once", "segnet")
ENCODERS = dict.fromkeys(ON_VGG, "vgg11_bn") | {"original_unet": None, "original_unet_padded": None}
"""For the networks that do not stand on every encoder, or on none."""
LOSSES = {name: losses.make_loss_fn({name: 1.0}) for name in losses.names()}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def counted(labels, predictions, num_classes, **options):
    arrays = (jnp.asarray(x, jnp.int32) for x in (labels, predictions))
    return ConfusionMatrix.zero(num_classes).update(
        **dict(zip(("labels", "predictions"), arrays, strict=True)), **options
    )


def image_means(labels, predictions, num_classes):
    """The IoU of single images, averaged."""

    @jax.jit
    def run(labels, predictions):
        counts = ConfusionMatrix.per_image(num_classes, labels=labels, predictions=predictions)
        return ImageMeans.zero(num_classes).update(metrics.iou, counts)

    return run(labels, predictions)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def spread(function, num_classes=4):
    """`(half ignored, the counted half alone)`: what a loss makes of a batch."""
    logits, labels = random(2, 3, 8, num_classes), np.arange(48).reshape(2, 3, 8) % num_classes
    ignored = np.where(np.arange(8) < 4, labels, 255)
    return function(logits, ignored), function(logits[:, :, :4], labels[:, :, :4])


@pytest.mark.parametrize("name", LOSSES)
def test_d01_every_loss_runs_with_its_defaults(name):
    """smp's SoftCrossEntropyLoss() fails with a TypeError unless a smoothing is given."""
    output = jaxseg.Output(jnp.zeros((2, 3, 4, 3)))
    loss, _ = jax.eval_shape(LOSSES[name], output, {"label": jnp.zeros((2, 3, 4), jnp.int32)})
    assert loss.shape == ()
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly"])
def test_d02_a_mean_is_over_the_pixels_that_count(name):
    """smp's soft cross-entropies divide by ignored pixels too: with half of them ignored the loss is half of torch's."""
    loss = jax.jit(lambda z, y: LOSSES[name](jaxseg.Output(z), {"label": y})[0])
    np.testing.assert_allclose(*spread(loss), rtol=1e-6)


def test_d03_a_focal_loss_of_several_labels_takes_ignored_ones():
    """smp's FocalLoss fails with an IndexError there, and is NaN where everything is ignored."""
    run = jax.jit(jax.value_and_grad(losses.focal_loss))
    logits, labels = random(1, 2, 3, 2), np.array([[[[0, 255]] * 3, [[1, 255]] * 3]])
    loss, gradient = run(logits, labels)
    np.testing.assert_allclose(loss, run(logits[..., :1], labels[..., 0])[0], rtol=1e-6)
    assert not np.asarray(gradient)[..., 1].any()
    loss, gradient = run(logits, np.full_like(labels, 255))
    assert loss == 0
    assert not np.asarray(gradient).any()


def test_d04_a_lovasz_loss_is_a_number_and_takes_logits_alone():
    """smp's LovaszLoss has `from_logits` and does not read it; all ignored, it returns an empty array."""
    functions = [f for f in vars(losses).values() if inspect.isfunction(f)]
    assert len(functions) > 20
    for function in functions:
        assert "from_logits" not in inspect.signature(function).parameters, function
    for loss in (losses.lovasz_softmax_loss, losses.lovasz_hinge_loss):
        run = jax.jit(jax.value_and_grad(loss))
        value, gradient = run(random(2, 3, 4, 3), np.full((2, 3, 4), 255))
        assert value.shape == ()
        assert value == 0
        assert not np.asarray(gradient).any()


def test_d05_counts_ignore_in_every_mode():
    """smp's get_stats refuses `ignore_index` for binary and multilabel masks."""
    labels, predictions = np.array([[[0, 1, 1, 255]]]), np.array([[[0, 0, 1, 1]]])
    binary = counted(labels, predictions, 1, ignore_index=255)
    assert binary.to_numpy().tolist() == [[1, 0], [1, 1]]
    several = MultilabelCounts.zero(2).update(
        labels=jnp.asarray(np.stack([labels, 1 - labels % 255], -1)),
        predictions=jnp.asarray(np.stack([predictions, predictions], -1)),
        ignore_index=255,
    )
    assert several.to_numpy()[0].tolist() == [[1, 0], [1, 1]]
    assert several.to_numpy()[1].sum() == 4


def test_d06_a_weighted_mean_over_classes_is_not_divided_by_their_number():
    """smp's "weighted-imagewise" is: of weights that sum to 1 it gives a K-th."""
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    predictions = np.where(np.random.default_rng(1).random(labels.shape) < 0.4, 0, labels)
    means, weights = image_means(labels, predictions, 3), np.array([0.2, 0.3, 0.5])
    of_classes = np.asarray(metrics.class_means(means))
    found = metrics.weighted_imagewise(means, weights)
    np.testing.assert_allclose(found, (of_classes * weights).sum(), rtol=1e-6)
    assert found >= of_classes.min() > 0


def test_d07_a_prediction_that_is_nowhere_right_scores_zero():
    """smp gives absent classes an IoU of 1 by default: with 8 of 10 absent, such a prediction has 0.8."""
    labels = np.arange(24).reshape(2, 3, 4) % 2
    counts = counted(labels, 1 - labels, 10)
    for score in (
        metrics.mean_iou,
        metrics.mean_dice,
        metrics.mean_accuracy,
        metrics.pixel_accuracy,
    ):
        assert score(counts.to_numpy()) == 0
    assert metrics.mean_iou(counts) == 0
    assert np.isnan(metrics.iou(counts.to_numpy())).tolist() == [False] * 2 + [True] * 8


def test_d08_nothing_is_treated_alike_by_every_mean():
    """smp's `zero_division` is not for "micro", which is NaN where the others have the value that was asked for."""
    nothing = np.zeros((3, 3), int)
    for mean in (metrics.macro, metrics.micro, metrics.weighted):
        assert np.isnan(mean(metrics.iou, nothing)), mean
    labels = np.stack([np.zeros((2, 2), int), np.full((2, 2), 255)])
    means = image_means(labels, 0 * labels, 3)
    for mean in (metrics.micro_imagewise, metrics.macro_imagewise, metrics.mean_of_image_means):
        assert mean(means) == 1, mean  # the second image is part of none


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "focal_tversky", "mcc"])
@pytest.mark.sample(2)
def test_d09_classes_that_a_batch_lacks_do_not_make_its_loss_smaller(name):
    """smp gives absent classes no loss but divides by their number too."""
    loss = jax.jit(lambda z, y: LOSSES[name](jaxseg.Output(z), {"label": y})[0])
    logits, labels = random(2, 3, 4, 2), np.arange(24).reshape(2, 3, 4) % 2
    more = np.concatenate([logits, np.full((2, 3, 4, 6), -1e4, np.float32)], -1)
    np.testing.assert_allclose(loss(more, labels), loss(logits, labels), rtol=1e-5)


@pytest.mark.parametrize("name", models.names())
@pytest.mark.sample(1)
def test_d10_a_batch_of_one_small_image_can_be_trained_on(name):
    """smp's U-Net and DeepLabV3+ raise from BatchNorm there: torch's refuses one value per channel."""
    options = {"channels": (8,) * 5} if name == "unet" else {}
    encoder = ENCODERS.get(name, encoders.resnet.ResNet((1, 1, 1, 1)))
    model = jaxseg.create(name, encoder=encoder, num_classes=3, **options)
    images, rngs = jnp.asarray(random(1, 32, 32, 3)), {"dropout": jax.random.key(0)}
    run = functools.partial(model.apply, train=True, mutable=["batch_stats"], rngs=rngs)
    if name != "unet":
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        assert jax.eval_shape(run, variables, images)[0].logits.shape == (1, 32, 32, 3)
        return
    variables = jax.jit(model.init)(jax.random.key(0), images)
    output, updated = jax.jit(run)(variables, images)
    assert np.isfinite(output.logits).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updated))


def test_d11_a_schedule_ends_with_the_run_and_void_is_no_class(tmp_path):
    """smp's CamVid notebook steps a cosine of 50 epochs once an iteration, and scores void as a twelfth class by micro IoU."""
    steps = 50 * 23
    for name in ("cosine", "poly"):
        optimizer = recipe.OptimizerRecipe(schedule=name, warmup=0.1)
        train = recipe.TrainRecipe(epochs=50)
        schedule = make_run(
            recipe.Recipe(optimizer=optimizer, train=train), steps_per_epoch=23
        ).learning_rate
        rates = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)))
        top = rates.argmax()
        assert top == 115
        assert (np.diff(rates[top:]) < 0).all()
        assert 0 < rates[-1] < 0.01 * rates[top]
    save(tmp_path / "train" / "a.png", np.zeros((3, 4, 3)))
    save(tmp_path / "trainannot" / "a.png", np.arange(12).reshape(3, 4))
    source = CamVid(tmp_path, "train")
    labels = source[0]["label"][None]
    counts = counted(labels, labels % 255, source.num_classes, ignore_index=source.ignore_index)
    assert counts.num_classes == 11
    assert counts.to_numpy().sum() == 11


class TestD12NamesThatAreOfferedCanBeBuilt:
    """scenic's Cityscapes configuration names a trainer that is not registered: it cannot be started."""

    @pytest.mark.parametrize("name", models.names())
    @pytest.mark.sample(4)
    def test_d12_models(self, name):
        model = jaxseg.create(name, encoder=ENCODERS.get(name, "resnet18"), num_classes=5)
        shape = jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 64, 3))
        )
        assert shape.logits.shape == (1, 64, 64, 5)

    @pytest.mark.parametrize("name", encoders.names())
    @pytest.mark.sample(2, 4)
    def test_d12_encoders(self, name):
        encoder = encoders.create(name)
        features = jax.eval_shape(
            lambda x: encoder.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 64, 3))
        )
        assert tuple(x.shape[-1] for x in features) == encoder.channels

    @pytest.mark.parametrize("name", losses.names())
    def test_d12_losses(self, name):
        assert make_run(recipe.Recipe(loss=recipe.LossRecipe(weights={name: 1.0}))).loss_fn

    @pytest.mark.parametrize("file", [*sorted(EXPERIMENTS.glob("*.py")), None])
    def test_d12_recipes(self, file):
        one = recipe.Recipe() if file is None else recipe.load(file)
        assert make_run(one, num_classes=3).variables_like["params"]


@pytest.mark.slow
def test_d13_unet_reads_its_finest_feature_and_leaves_logits_alone():
    """scenic's U-Net never reads the finest skip, and normalises the logits by BatchNorm."""
    features = tuple(jnp.asarray(random(1, 2**k, 2**k, 3, seed=k)) for k in (4, 3, 2))

    @jax.jit
    def slopes(features):
        decoder = UNet((4, 4, 4))
        variables = decoder.init(jax.random.key(0), features, (32, 32))
        return jax.grad(lambda x: decoder.apply(variables, x, (32, 32))[0].sum())(features)

    assert all(np.abs(slope).max() > 0 for slope in slopes(features))
    for name in models.names():
        model = jaxseg.create(name, encoder=ENCODERS.get(name, "resnet18"), num_classes=3)
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        assert not {"head", "aux_heads"} & set(shapes.get("batch_stats", {})), name


def test_d14_a_name_of_weights_leads_to_what_it_says():
    """keras-hub's preset of SegFormer B1 for Cityscapes points at its weights for ADE20K."""
    pinned = {n: p.revision for n, p in pretrained.HUB.items() if p.revision is not None}
    assert len(set(pinned.values())) == len(pinned)
    for name, commit in pinned.items():
        assert re.fullmatch("[0-9a-f]{40}", commit)
        assert pretrained.pin(name) == f"{name}@{commit}"
    for name, published in pretrained.HUB.items():
        assert name.split("/")[1].split(".")[0] == published.builder
        assert published.builder in encoders.names()


@pytest.mark.parametrize(("given", "wanted"), [("resnet18", "resnet34"), ("resnet34", "resnet18")])
def test_d14_weights_of_another_network_are_refused(given, wanted):
    """However they are called, and with no tensor left over or missing."""

    def shapes(name):
        images = jnp.zeros((1, 32, 32, 3))
        return jax.eval_shape(encoders.create(name).init, jax.random.key(0), images)

    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes(given))
    state_dict = pretrained.to_torch(encoders.create(given), zeros, source="timm")
    with pytest.raises(InputError, match=r"layer[34]"):
        pretrained.from_torch(encoders.create(wanted), shapes(wanted), state_dict, source="timm")


def test_d15_mean_iou_is_of_the_data_set():
    """torchmetrics' segmentation.MeanIoU averages images (0.5 for a class that is 0.99), fails on 255, says -1 if absent."""
    labels = np.zeros((2, 16, 16), int)
    labels[0], labels[1, 0, 0] = 1, 1
    predictions = labels.copy()
    predictions[1, 0, 0] = 0
    labels[1, 8:] = 255
    counts = counted(labels, predictions, 3)
    found = metrics.iou(counts.to_numpy())
    np.testing.assert_allclose(found[:2], [127 / 128, 256 / 257], rtol=1e-6)
    assert np.isnan(found[2])
    np.testing.assert_allclose(metrics.mean_iou(counts), found[:2].mean(), rtol=1e-6)
    means = metrics.class_means(image_means(labels, predictions, 3))
    assert means[1] == 0.5  # under a name of its own


def test_d16_one_default_is_ignored_everywhere():
    """Hugging Face's example ignores 0 in its metric whatever the data set says."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                arguments = node.args
                names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                values = [*arguments.defaults, *arguments.kw_defaults]
                first = len(names) - len(values)
                given = [
                    v for a, v in zip(names[first:], values, strict=True) if a.arg == "ignore_index"
                ]
                assert all(v is None or ast.literal_eval(v) == 255 for v in given), (
                    file,
                    node.name,
                )
            if isinstance(node, ast.Call):
                given = [k.value for k in node.keywords if k.arg == "ignore_index"]
                assert not any(isinstance(v, ast.Constant) for v in given), (file, node.lineno)


def test_d16_labels_are_reduced_once(tmp_path):
    """The same example can reduce labels twice: in the processor, and in the metric once more."""
    for folder in ("images", "masks"):
        save(tmp_path / folder / "a.png", [[0, 1], [2, 3]])
    source = Folder(
        tmp_path / "images",
        tmp_path / "masks",
        num_classes=3,
        label_map=LabelMap(reduce_zero_label=True),
    )
    labels = source[0]["label"]
    assert labels.tolist() == [[255, 0], [1, 2]]
    counts = counted(labels[None], labels[None] % 255, 3, ignore_index=source.ignore_index)
    assert counts.to_numpy().tolist() == np.eye(3, dtype=int).tolist()


def test_d17_a_label_that_is_no_class_is_reported(tmp_path):
    """`evaluate`'s mean_iou drops such pixels without a word."""
    for folder in ("images", "masks"):
        save(tmp_path / folder / "b.png", [[0, 1], [7, 255]])
    source = Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)
    with pytest.raises(InputError, match=r"label 7 in .*b\.png, but num_classes=2"):
        source[0]
    with pytest.raises(InputError, match=r"label 7 in .*b\.png"):
        check_sample(source)
    assert len(check(source).problems) == 1


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "ohem", "dice", "lovasz_softmax"])
def test_d17_a_loss_of_it_is_not_a_number(name):
    """Nothing can be raised on the device, and a plausible number would hide it."""
    loss = jax.jit(lambda z, y: LOSSES[name](jaxseg.Output(z), {"label": y})[0])
    assert np.isnan(loss(random(1, 1, 4, 2), np.array([[[0, 1, 7, 255]]])))


@pytest.mark.parametrize(
    "name", ["dice", "jaccard", "tversky", "generalized_dice", "log_cosh_dice", "mcc"]
)
@pytest.mark.sample(3)
def test_d18_what_is_ignored_is_in_no_part_of_a_ratio(name):
    """mmsegmentation's Dice masks the numerator alone, and its cross-entropy counts ignored pixels by default (see D2)."""
    loss = jax.jit(lambda z, y: LOSSES[name](jaxseg.Output(z), {"label": y})[0])
    np.testing.assert_allclose(*spread(loss), rtol=1e-5)


def test_d19_counts_are_exact_beyond_what_float32_holds():
    """mmsegmentation sums areas in float32, which adds 1 to 2**24 in vain."""
    one = counted(np.array([[[1]]]), np.array([[[0]]]), 2)
    many = one
    for _ in range(54):
        many = many + many
    assert int((many + one).to_numpy()[1, 0]) == 2**54 + 1
    assert np.float32(2**24) + np.float32(1) == 2**24
