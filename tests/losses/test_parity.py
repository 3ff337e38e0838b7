"""The originals beside ours in one process, forward and gradient, on random inputs."""

import functools
import importlib
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import (
    cross_entropy,
    dice_loss,
    jaccard_loss,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)

pytestmark = pytest.mark.parity
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


def load(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if name != "torch" and REFERENCE.is_dir():
                sys.path.append(
                    str(REFERENCE)
                )  # stand-ins for operators that a CPU-only torch lacks
                importlib.import_module("torch_cpu")
            return importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"{name} cannot be imported here: {error}")


@pytest.fixture(scope="module")
def torch():
    return load("torch")


@pytest.fixture(scope="module")
def smp_losses():
    return load("segmentation_models_pytorch").losses


def compare(torch, ours, theirs, logits, labels, rtol=1e-10):
    """Values and gradients in float64; `theirs` takes NCHW logits and int64 labels."""
    z = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
    expected = theirs(z, torch.tensor(labels.astype(np.int64)))
    expected.sum().backward()
    with jax.enable_x64(True):
        summed = jax.value_and_grad(
            lambda z: (ours(z, labels).sum(), ours(z, labels)), has_aux=True
        )
        (_, value), gradient = jax.jit(summed)(jnp.asarray(logits))
    np.testing.assert_allclose(value, expected.detach(), rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(gradient, z.grad.permute(0, 2, 3, 1), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("ignore_index", [255, -100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_cross_entropy_is_torchs(torch, batch, weighted, smoothing, ignore_index):
    logits, labels = batch(ignore_index=ignore_index)
    weights = np.array([1.0, 0.0, 2.0, 0.25]) if weighted else None
    options = {"ignore_index": ignore_index, "label_smoothing": smoothing}
    for ours, reduction in ((softmax_cross_entropy, "none"), (cross_entropy, "mean")):
        compare(
            torch,
            lambda z, y, ours=ours: ours(z, y, class_weights=weights, **options),
            lambda z, y, reduction=reduction: torch.nn.functional.cross_entropy(
                z,
                y,
                weight=None if weights is None else torch.tensor(weights),
                reduction=reduction,
                **options,
            ),
            logits,
            labels,
        )


def test_sigmoid_cross_entropy_is_torchs_where_nothing_is_ignored(torch, batch):
    logits, labels = batch(1)
    labels = labels % 255
    compare(
        torch,
        lambda z, y: sigmoid_cross_entropy(z, y, pos_weight=2.5),
        lambda z, y: torch.nn.functional.binary_cross_entropy_with_logits(
            z[:, 0], y.double(), pos_weight=torch.tensor(2.5), reduction="none"
        ),
        logits,
        labels,
    )


@pytest.mark.parametrize("smooth", [0.0, 0.7])
@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss"])
@pytest.mark.parametrize("num_classes", [1, 4])
def test_region_losses_are_smps_where_every_class_is_there(
    torch, smp_losses, batch, name, num_classes, smooth
):
    logits, labels = batch(num_classes)
    if num_classes > 1:
        labels[0, 0, :2] = 2
    theirs = getattr(smp_losses, name)(
        "binary" if num_classes == 1 else "multiclass", smooth=smooth, ignore_index=255, eps=1e-12
    )
    ours = {"DiceLoss": dice_loss, "JaccardLoss": jaccard_loss}[name]
    ours = functools.partial(ours, smooth=2 * smooth if name == "DiceLoss" else smooth)
    compare(torch, ours, theirs, logits, labels)


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss"])
def test_absent_classes_are_where_smp_differs(torch, smp_losses, batch, name):
    """Three of four classes are there: smp divides their losses by four."""
    logits, labels = batch()
    assert set(np.unique(labels)) == {0, 1, 3, 255}
    theirs = getattr(smp_losses, name)("multiclass", ignore_index=255, eps=1e-12)
    ours = {"DiceLoss": dice_loss, "JaccardLoss": jaccard_loss}[name]
    compare(torch, lambda z, y: 0.75 * ours(z, y), theirs, logits, labels)


def test_mean_over_counted_pixels_is_where_smp_differs(torch, smp_losses):
    """With half of the pixels ignored, smp's mean is half of torch's."""
    labels = np.array([[[0, 1, 255, 255]]])
    logits = np.sin(np.arange(12.0)).reshape(1, 1, 4, 3)
    theirs = smp_losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255)
    compare(torch, lambda z, y: 0.5 * cross_entropy(z, y), theirs, logits, labels)
