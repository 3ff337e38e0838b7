"""Specs of weights: matched by class, and brought by modules that jaxseg does not know."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxseg
from jaxseg import encoders, models, pretrained
from jaxseg.errors import InputError
from jaxseg.pretrained.encoders import ENCODERS
from jaxseg.pretrained.models import MODELS
from jaxseg.registry import find_builder


class Stairs(nn.Module):
    """A user's encoder: a convolution with stride 2 per feature."""

    in_channels: int = 3
    strides: tuple[int, ...] = (2, 4)
    channels: tuple[int, ...] = (4, 6)

    @nn.compact
    def __call__(self, images, *, train=False):
        features = []
        for i, channels in enumerate(self.channels):
            images = nn.Conv(channels, (3, 3), 2, padding=1, name=f"step{i}")(images)
            features.append(images)
        return tuple(features)


def stairs_spec(path=f"{Stairs.__module__}:Stairs"):
    return pretrained.EncoderWeights(
        module=path,
        key_map=lambda encoder, source: pretrained.KeyMap(((r"step(\d)", r"steps.\1"),)),
        stem="step0",
        ignored=(r"head\..*",),
    )


def random_variables(model, channels=3):
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, channels)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), template)


STATE_DICT = {
    "steps.0.weight": np.ones((4, 3, 3, 3), np.float32),
    "steps.0.bias": np.ones(4, np.float32),
    "steps.1.weight": np.ones((6, 4, 3, 3), np.float32),
    "steps.1.bias": np.ones(6, np.float32),
    "head.weight": np.ones((10, 6), np.float32),
}


@pytest.mark.parametrize("spec", [*ENCODERS.values(), *MODELS.values()], ids=lambda s: s.module)
def test_spec_names_a_class_that_exists(spec):
    assert isinstance(find_builder(spec.module), type)


def test_every_encoder_has_a_spec():
    for name in encoders.names():
        assert pretrained.weights.class_path(encoders.create(name)) in ENCODERS


def test_another_class_of_the_same_name_has_no_spec():
    class ResNet(Stairs):
        pass

    with pytest.raises(InputError, match="there are no weights for the encoder ResNet"):
        pretrained.to_torch(ResNet(), {}, source="timm")


def test_own_encoder_with_specs_is_filled():
    model = models.unet(num_classes=2, encoder=Stairs())
    variables = random_variables(model)
    filled = pretrained.from_torch(
        model, variables, STATE_DICT, source="timm", specs=[stairs_spec()]
    )
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(filled["params"]["encoder"]))
    jax.tree.map(
        np.testing.assert_array_equal, filled["params"]["decoder"], variables["params"]["decoder"]
    )
    back = pretrained.to_torch(model, filled, source="timm", specs=[stairs_spec()])
    assert sorted(back) == sorted(set(STATE_DICT) - {"head.weight"})


def test_own_encoder_with_weights_in_its_file_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[Stairs.__module__], "WEIGHTS", stairs_spec(), raising=False)
    path = tmp_path / "stairs.safetensors"
    safetensors.numpy.save_file(STATE_DICT, path)
    model = models.fpn(num_classes=2, encoder=Stairs(in_channels=1))
    filled = pretrained.load(model, random_variables(model, channels=1), path)
    kernel = filled["params"]["encoder"]["step0"]["kernel"]
    np.testing.assert_array_equal(kernel, np.full((3, 3, 1, 4), 3.0))


def test_own_encoder_without_spec_names_the_way_out():
    with pytest.raises(InputError, match=r"by a spec, jaxseg\.pretrained\.EncoderWeights"):
        pretrained.to_torch(Stairs(), {}, source="timm")


def test_own_decoder_with_a_layout_is_filled():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, features, size, *, train=False):
            return (nn.Conv(2, (1, 1), name="score")(features[-1]),)

    layout = pretrained.Layout(
        lambda model, encoder: pretrained.KeyMap((("decoder/score", "head.score"),)),
        encoder="backbone",
    )
    path = f"{Sum.__module__}:{Sum.__qualname__}"
    specs = [stairs_spec(), pretrained.ModelWeights(path, {"mine": layout})]
    model = jaxseg.models.SegmentationModel(Stairs(), Sum(), None)
    variables = random_variables(model)
    state_dict = pretrained.to_torch(model, variables, source="mine", specs=specs)
    assert {"backbone.steps.0.weight", "head.score.bias"} <= set(state_dict)
    back = pretrained.from_torch(model, variables, state_dict, source="mine", specs=specs)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
