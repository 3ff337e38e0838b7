"""The checks that every registered architecture passes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import (
    SIZE,
    check_gradients,
    check_updates,
    count,
    fast_jit,
    noise,
    random_variables,
    relative_error,
    shapes,
)
from harness.models import (
    CLASSES,
    OwnEncoder,
    accept_any_encoder,
    calls,
    cases,
    create,
    encoders_of,
    small_model,
)

from jaxseg import encoders, models

CASES = [pytest.param(case, id="-".join(filter(None, case))) for case in cases()]
FIRST = [pytest.param((name, encoders_of(name)[0]), id=name) for name in models.names()]
OTHER_ENCODERS = [
    encoders.resnet50(),
    *(encoders.resnet18(depth=depth) for depth in (1, 2, 3, 4)),
    *(encoders.resnet18(output_stride=stride) for stride in (8, 16)),
]
ON_OTHER_ENCODERS = [
    (name, encoder)
    for name in accept_any_encoder()
    for encoder in OTHER_ENCODERS
    if models.accepts_encoder(name, encoder)
]

VGG_DENSE = 14_723_136 + (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096
PARAMETERS = {  # with ResNet-34, or VGG-16 with normalization, and one class; those of the architectures of smp are smp's
    "deeplab_v3": 26_007_105,
    "deeplab_v3_plus": 22_437_457,
    "fcn_32s": 21_284_672 + 512 + 1,
    "fcn_16s": 21_284_672 + 512 + 256 + 2 + 16,
    "fcn_8s": 21_284_672 + 512 + 256 + 128 + 3 + 32,
    "fcn_vgg_32s": VGG_DENSE + 4096 + 1,
    "fcn_vgg_16s": VGG_DENSE + 4096 + 512 + 2 + 16,
    "fcn_vgg_8s": VGG_DENSE + 4096 + 512 + 256 + 3 + 32,
    "fcn_vgg_8s_at_once": VGG_DENSE + 4096 + 512 + 256 + 3 + 32,
    "fcn": 21_284_672 + (9 * 512 + 2 + 1) * 128 + (9 * 256 + 2 + 1) * 64 + 2,
    "unet": 24_436_369,
    "fpn": 23_155_393,
    "linknet": 21_771_937,
    "upernet": 29_599_681,
    "segformer": 21_876_545,
    "unet_plus_plus": 26_078_609,
    "manet": 31_783_633,
    "pan": 21_475_816,
    "pspnet": 22_077_633,
    "multiscale_fpn": 21_284_672 + 4 * (9 * 256 + 1) * 256 + (960 + 4) * 256 + 590_080 + 257,
    "segnet": 29_443_585,
    "original_unet": 31_031_745,
    "original_unet_padded": 31_031_745,
}


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.sample(7)
def test_number_of_parameters(name):
    if not models.takes_encoder(name):
        model = create(name, None, 1)
    else:
        known = ("resnet34", "vgg16_bn")
        encoder = next(each for each in known if models.accepts_encoder(name, each))
        model = create(name, encoder, 1)
    assert count(shapes(model)[1]) == PARAMETERS[name]


@pytest.mark.parametrize("name", models.names())
def test_builder_is_an_attribute_of_the_package(name):
    assert getattr(models, name) is models.MODELS[name]


@pytest.mark.parametrize("case", FIRST)
@pytest.mark.sample(3)
def test_logits_with_any_size_batch_channels_and_classes(case):
    for size, train in [((1, 1), True), ((1, 50), False), ((65, 63), True)]:
        output, _ = shapes(small_model(*case, num_classes=1), (1, *size, 3), train=train)
        assert output.logits.shape == (1, *size, 1)
    for channels, classes in ((1, 2), (12, 21)):
        model = small_model(*case, num_classes=classes, in_channels=channels)
        output, _ = shapes(model, (3, 9, 8, channels))
        assert output.logits.shape == (3, 9, 8, classes)
        assert all(aux.shape == output.logits.shape for aux in output.aux_logits)


@pytest.mark.parametrize("name", accept_any_encoder())
@pytest.mark.sample(2)
def test_users_encoder_works(name):
    model = create(name, OwnEncoder())
    variables = random_variables(shapes(model)[1])
    logits = fast_jit(model.apply)(variables, jnp.ones((1, *SIZE, 3))).logits
    assert logits.shape == (1, *SIZE, CLASSES)
    assert np.isfinite(logits).all()
    assert shapes(model, (1, 1, 1, 3))[0].logits.shape == (1, 1, 1, CLASSES)


@pytest.mark.parametrize(("name", "encoder"), ON_OTHER_ENCODERS)
@pytest.mark.sample(6)
def test_logits_with_any_depth_stride_and_block(name, encoder):
    assert shapes(create(name, encoder))[0].logits.shape == (1, *SIZE, CLASSES)


class Subject:
    """A network with random variables, images, and what its compiled functions make of them."""

    def __init__(self, case):
        self.case, self.model = case, small_model(*case)
        self.variables = random_variables(shapes(self.model)[1])
        self.images = noise(2, *SIZE, 3)
        self.logits = fast_jit(self.model.apply)(self.variables, self.images).logits
        compiled = fast_jit(jax.value_and_grad(self.loss, has_aux=True))
        (_, (self.train_logits, self.updated)), self.gradients = compiled(self.variables["params"])

    def loss(self, parameters):
        variables = {**self.variables, "params": parameters}
        rngs = {"dropout": jax.random.key(0)}
        output, updated = self.model.apply(
            variables, self.images, train=True, mutable=True, rngs=rngs
        )
        logits = sum(output.aux_logits, output.logits)
        return (logits * noise(*logits.shape, seed=2)).mean(), (output.logits, updated)


@pytest.fixture(scope="module", params=CASES)
def subject(request):
    return Subject(request.param)


@pytest.mark.sample(2)
def test_logits_are_float32_and_of_moderate_size(subject):
    assert subject.logits.shape == (2, *SIZE, CLASSES)
    assert subject.logits.dtype == jnp.float32
    assert 0.01 < subject.logits.std() < 100
    assert np.isfinite(subject.train_logits).all()


@pytest.mark.sample(2)
def test_gradient_reaches_every_parameter(subject):
    check_gradients(subject.gradients)


@pytest.mark.sample(2)
def test_training_changes_batch_statistics_alone(subject):
    check_updates(subject.variables, subject.updated)
    if "batch_stats" in subject.variables:
        assert np.abs(subject.train_logits - subject.logits).max() > 0.01


@pytest.mark.sample(2)
def test_one_image_without_jit_has_the_same_logits(subject):
    alone = subject.model.apply(subject.variables, subject.images[1:]).logits
    scale = np.abs(subject.logits).max()
    np.testing.assert_allclose(alone / scale, subject.logits[1:] / scale, rtol=0, atol=1e-5)


@pytest.mark.sample(2)
def test_one_pixel_can_be_trained(subject):
    def run(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return subject.model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=rngs
        )

    result = fast_jit(run)(subject.variables, subject.images[:1, :1, :1])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))


@pytest.mark.sample(2)
def test_bfloat16_logits_are_near_float32(subject):
    """Logits of SegNet jump where rounding moves a maximum, so it is compared at the same indices."""
    model = small_model(*subject.case, dtype=jnp.bfloat16)
    output = fast_jit(model.apply)(subject.variables, subject.images)
    assert output.logits.dtype == jnp.float32
    unpools = calls(model, "with_indices")
    exact = logits_at_indices_of(model, subject) if unpools else subject.logits
    assert 0 < relative_error(output.logits, exact) < 2e-2


def logits_at_indices_of(model, subject):
    """The logits of `subject.model` with the indices of the max-pools of `model`."""
    variables = {
        kind: tree["encoder"] for kind, tree in subject.variables.items() if "encoder" in tree
    }

    def indices_of(encoder):
        run = fast_jit(lambda v, x: encoder.apply(v, x, method="with_indices")[1])
        return run(variables, subject.images)

    indices, exact = indices_of(model.encoder), indices_of(subject.model.encoder)
    assert 0 < max((a != b).mean() for a, b in zip(indices, exact, strict=True)) < 0.05

    def replace(function, args, kwargs, context):
        result = function(*args, **kwargs)
        return (result[0], indices) if context.method_name == "with_indices" else result

    with nn.intercept_methods(replace):
        return fast_jit(subject.model.apply)(subject.variables, subject.images).logits


def test_pmap_has_the_logits_of_jit():
    model, images = small_model(*cases()[0]), noise(2, *SIZE, 3)
    variables = random_variables(shapes(model)[1])
    expected = fast_jit(model.apply)(variables, images).logits
    logits = jax.pmap(model.apply, in_axes=(None, 0))(variables, images[:, None]).logits
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits[:, 0] / scale, expected / scale, rtol=0, atol=1e-5)
