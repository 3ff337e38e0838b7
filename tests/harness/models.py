"""A small network of every registered architecture, for the testers that go through all of them."""

import functools
import inspect

import flax.linen as nn
from harness.encoders import SIZE, quick_names, shapes, shrink, variants

import jaxseg
from jaxseg import models

CLASSES = 3


class OwnEncoder(nn.Module):
    """An encoder as a user might write it: it starts at stride 4, with any numbers of channels."""

    @property
    def strides(self):
        return 4, 8, 16, 32

    @property
    def channels(self):
        return 6, 10, 12, 20

    @nn.compact
    def __call__(self, images, *, train=False):
        features = []
        for i, channels in enumerate(self.channels):
            stride = 4 if i == 0 else 2
            images = nn.Conv(channels, (3, 3), strides=stride, padding=1)(images)
            features.append(images)
        return tuple(features)


def encoders_of(name):
    """Returns one name of a small variant for each family that an architecture accepts."""
    if not models.takes_encoder(name):
        return [None]
    return [each for each in quick_names() if models.accepts_encoder(name, variants()[each])]


@functools.cache
def cases():
    """Returns pairs of an architecture and a small encoder, or None.

    Each architecture on the first family that it accepts, and U-Net on every family.
    """
    every = [(name, encoders_of(name)[0]) for name in models.names()]
    return every + [("unet", encoder) for encoder in encoders_of("unet")[1:]]


def accept_any_encoder():
    """Returns the names of the architectures that can stand on a user's encoder."""
    takers = filter(models.takes_encoder, models.names())
    return [name for name in takers if models.accepts_encoder(name, OwnEncoder())]


def small_model(name, encoder=None, num_classes=CLASSES, **fields):
    """Builds an architecture with few channels, on a small variant of an encoder.

    `fields` are the encoder's, such as `in_channels` and `dtype`; an architecture without an encoder
    gets those that are its options.
    """
    parameters = inspect.signature(models.MODELS[name]).parameters.values()
    options = {p.name: shrink(p.default) for p in parameters if p.default != shrink(p.default)}
    if not models.takes_encoder(name):
        options |= {k: v for k, v in fields.items() if k in {p.name for p in parameters}}
        return jaxseg.create(name, num_classes=num_classes, **options)
    encoder = variants()[encoder or encoders_of(name)[0]].clone(**fields)
    return jaxseg.create(name, encoder=encoder, num_classes=num_classes, **options)


def create(name, encoder="resnet18", num_classes=CLASSES, **options):
    """`jaxseg.create` with defaults for tests."""
    return jaxseg.create(name, encoder=encoder, num_classes=num_classes, **options)


def calls(model, method):
    """Returns whether a model calls a method of one of its modules."""
    called = []

    def record(function, args, kwargs, context):
        called.append(context.method_name)
        return function(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(model, (1, *SIZE, 3))
    return method in called
