import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import encoders, pretrained
from jaxseg.classifiers import Classifier, ConvHead, DenseHead
from jaxseg.errors import InputError

SMALL = encoders.ResNet((1, 1, 1, 1))


def template(model, channels=3):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, channels)))


def random_like(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


VGG = encoders.VGG((1, 2, 1, 1, 1), True, (1, 2, 3, 4, 5))
DENSE = Classifier(VGG, DenseHead((8, 6, 4), (3, 2)))

MODELS = [
    ("smp", jaxseg.create("unet", encoder=SMALL, num_classes=3, image_labels=5)),
    ("smp", jaxseg.create("unet", encoder="resnet50", num_classes=3, encoder_options={"depth": 3})),
    ("smp", jaxseg.create("fpn", encoder=SMALL, num_classes=1)),
    ("timm", encoders.resnet50(depth=2)),
    ("torchvision", SMALL),
    (
        "smp",
        jaxseg.create("unet", encoder=encoders.vgg11_bn(widths=(1, 2, 3, 4, 5)), num_classes=3),
    ),
    ("torchvision", DENSE),
    ("timm", DENSE),
    ("timm", Classifier(SMALL, DenseHead((4,)))),
    ("timm", encoders.vgg16(widths=(1, 2, 3, 4, 5), depth=2)),
]


@pytest.fixture(scope="module")
def unet():
    model = jaxseg.create("unet", encoder=SMALL, num_classes=2)
    return model, random_like(template(model))


@pytest.mark.parametrize(("source", "model"), MODELS)
def test_there_and_back_again(source, model):
    shapes = template(model)
    variables = random_like(shapes)
    state_dict = pretrained.to_torch(model, variables, source=source)
    assert len(state_dict) == len(jax.tree.leaves(variables))
    assert all(isinstance(value, np.ndarray) for value in state_dict.values())
    back = pretrained.from_torch(model, shapes, state_dict, source=source)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_names_and_layout(unet):
    model, variables = unet
    state_dict = pretrained.to_torch(model, variables)
    kernel = variables["params"]["encoder"]["stage2_block0"]["conv1"]["conv"]["kernel"]
    np.testing.assert_array_equal(
        state_dict["encoder.layer2.0.conv1.weight"], kernel.transpose(3, 2, 0, 1)
    )
    shortcut = variables["batch_stats"]["encoder"]["stage3_block0"]["shortcut"]["norm"]["var"]
    np.testing.assert_array_equal(state_dict["encoder.layer3.0.downsample.1.running_var"], shortcut)
    scale = variables["params"]["decoder"]["block4"]["conv2"]["norm"]["scale"]
    np.testing.assert_array_equal(state_dict["decoder.blocks.4.conv2.1.weight"], scale)
    bias = variables["params"]["head"]["conv"]["bias"]
    np.testing.assert_array_equal(state_dict["segmentation_head.0.bias"], bias)


def test_layers_of_a_vgg_are_numbered_through():
    model = encoders.vgg13_bn(widths=(1, 2, 3, 4, 5), depth=2)
    variables = random_like(template(model))
    state_dict = pretrained.to_torch(model, variables, source="torchvision")
    layers = {"conv": [0, 3, 7, 10, 14, 17], "norm": [1, 4, 8, 11, 15, 18]}
    assert {int(name.split(".")[1]) for name in state_dict} == {*layers["conv"], *layers["norm"]}
    block = variables["params"]["stage3_conv0"]
    np.testing.assert_array_equal(state_dict["features.14.bias"], block["conv"]["bias"])
    np.testing.assert_array_equal(state_dict["features.15.bias"], block["norm"]["bias"])
    unused = {f"{name}.weight": np.zeros(1) for name in ("features.21", "classifier.0", "head.fc")}
    again = pretrained.from_torch(model, variables, state_dict | unused, source="torchvision")
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    with pytest.raises(InputError, match=r"1 tensors without a variable:\n  features\.23\.weight"):
        pretrained.from_torch(
            model, variables, state_dict | {"features.23.weight": np.zeros(1)}, source="torchvision"
        )


def test_dense_layers_are_convolutions_in_timm_and_not_in_torchvision():
    variables = random_like(template(DENSE))
    timm, torchvision = (
        pretrained.to_torch(DENSE, variables, source=s) for s in ("timm", "torchvision")
    )
    shapes = [timm[f"{name}.weight"].shape for name in ("pre_logits.fc1", "pre_logits.fc2")]
    assert shapes == [(8, 5, 3, 2), (6, 8, 1, 1)]
    assert torchvision["classifier.0.weight"].shape == (8, 30)
    assert timm["head.fc.weight"].shape == torchvision["classifier.6.weight"].shape == (4, 6)
    np.testing.assert_array_equal(
        timm["pre_logits.fc1.weight"].reshape(8, 30), torchvision["classifier.0.weight"]
    )
    for name, wrong in (("pre_logits.fc1.weight", (8, 5, 2, 3)), ("head.fc.weight", (4, 6, 1, 1))):
        with pytest.raises(InputError, match=f"1 tensors that do not fit:\n.*{name}"):
            pretrained.from_torch(
                DENSE, variables, timm | {name: timm[name].reshape(wrong)}, source="timm"
            )
    with pytest.raises(InputError, match="1 tensors without a variable"):
        pretrained.from_torch(DENSE, variables, timm | {"head.fc.more": np.ones(1)}, source="timm")


def test_a_classifier_has_no_table_of_smp_and_none_as_convolutions():
    with pytest.raises(InputError, match="has no classifiers"):
        pretrained.to_torch(DENSE, {})
    with pytest.raises(InputError, match="no table for the head ConvHead"):
        pretrained.to_torch(Classifier(VGG, ConvHead((4,))), {}, source="timm")


def test_the_encoder_alone_is_filled_and_the_rest_kept(unet):
    model, variables = unet
    before = jax.tree.map(np.copy, variables)
    state_dict = pretrained.to_torch(SMALL, random_like(template(SMALL), seed=1), source="timm")
    result = pretrained.from_torch(model, variables, state_dict, source="timm")
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    for collection in ("params", "batch_stats"):
        same = jax.tree.map(np.array_equal, result[collection], variables[collection])
        assert all(jax.tree.leaves({k: v for k, v in same.items() if k != "encoder"}))
        assert not any(jax.tree.leaves(same["encoder"]))
    exported = pretrained.to_torch(model, result, source="timm")
    assert set(exported) == set(state_dict)
    for name in exported:
        np.testing.assert_array_equal(exported[name], state_dict[name])


def test_what_a_model_does_without_is_ignored(unet):
    shallow = encoders.ResNet((1, 1, 1, 1), depth=3)
    whole = pretrained.to_torch(SMALL, random_like(template(SMALL)), source="timm")
    whole |= {
        "fc.weight": np.zeros((1000, 512)),
        "fc.bias": np.zeros(1000),
        "bn1.num_batches_tracked": np.zeros(()),
    }
    variables = pretrained.from_torch(shallow, template(shallow), whole, source="timm")
    assert "stage3_block0" not in variables["params"]


def test_types_follow_the_template():
    shapes = template(encoders.ResNet((1, 1, 1, 1), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16))
    state_dict = pretrained.to_torch(SMALL, random_like(template(SMALL)), source="timm")
    variables = pretrained.from_torch(SMALL, shapes, state_dict, source="timm")
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}


def test_all_misses_are_listed_at_once(unet):
    model, variables = unet
    state_dict = pretrained.to_torch(model, variables)
    del state_dict["encoder.conv1.weight"], state_dict["decoder.blocks.0.conv1.1.running_mean"]
    state_dict["segmentation_head.0.bias"] = np.zeros(7)
    state_dict["decoder.extra.weight"] = np.zeros(1)
    with pytest.raises(InputError) as error:
        pretrained.from_torch(model, variables, state_dict)
    message = str(error.value)
    assert "2 variables without a tensor" in message
    assert "params/encoder/stem/conv/kernel (no encoder.conv1.weight)" in message
    assert (
        "batch_stats/decoder/block0/conv1/norm/mean (no decoder.blocks.0.conv1.1.running_mean)"
        in message
    )
    assert "1 tensors that do not fit" in message
    assert (
        "params/head/conv/bias: segmentation_head.0.bias gives (7,), but (2,) is needed" in message
    )
    assert "1 tensors without a variable:\n  decoder.extra.weight" in message


def test_another_architecture_is_refused(unet):
    model, variables = unet
    with pytest.raises(InputError, match="do not match the model"):
        pretrained.from_torch(
            model,
            variables,
            pretrained.to_torch(SMALL, random_like(template(SMALL)), source="timm"),
        )
    deeper = encoders.ResNet((2, 1, 1, 1))
    state_dict = pretrained.to_torch(deeper, random_like(template(deeper)), source="timm")
    with pytest.raises(InputError, match=r"10 tensors without a variable:\n  layer1.1.bn1"):
        pretrained.from_torch(model, variables, state_dict, source="timm")


def test_variables_of_the_wrong_structure_are_refused(unet):
    model, variables = unet
    extra = {**variables, "params": {**variables["params"], "own": {"kernel": np.zeros((1, 1))}}}
    with pytest.raises(InputError, match=r"params/own/kernel \(no rule for it\)"):
        pretrained.to_torch(model, extra)
    with pytest.raises(InputError, match="a shape, not an array"):
        pretrained.to_torch(model, template(model))


def test_shapes_alone_need_a_source_that_fills_everything(unet):
    model, variables = unet
    state_dict = pretrained.to_torch(SMALL, random_like(template(SMALL)), source="timm")
    with pytest.raises(InputError, match="fills the encoder alone"):
        pretrained.from_torch(model, template(model), state_dict, source="timm")
    complete = pretrained.from_torch(model, template(model), pretrained.to_torch(model, variables))
    jax.tree.map(np.testing.assert_array_equal, complete, variables)


def test_what_has_no_table_is_named():
    fcn = jaxseg.create("fcn_8s", encoder=SMALL, num_classes=2)
    with pytest.raises(
        InputError,
        match=r"segmentation_models.pytorch has no FCN; there are tables for UNet and FPN",
    ):
        pretrained.to_torch(fcn, {})
    with pytest.raises(InputError, match="unknown source 'tim'; did you mean 'timm'"):
        pretrained.to_torch(fcn, {}, source="tim")
    with pytest.raises(InputError, match="there is no table for the encoder Head"):
        pretrained.to_torch(jaxseg.nn.Head(2), {})
