import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import encoders, pretrained
from jaxseg.errors import InputError
from jaxseg.models import Classifier, ConvHead, DenseHead, fully_convolutional
from jaxseg.nn.transposed import bilinear_kernel

SMALL = encoders.resnet.ResNet((1, 1, 1, 1))


def template(model, channels=3):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, channels)))


def random_like(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


VGG = encoders.vgg.VGG((1, 2, 1, 1, 1), True, (1, 2, 3, 4, 5))
DENSE = Classifier(VGG, DenseHead((8, 6, 4), (3, 2)))

PLAIN = encoders.vgg.VGG((1, 2, 1, 1, 1), False, (1, 2, 3, 4, 5))
DILATED = encoders.resnet.ResNet((1, 1, 1, 1), output_stride=8)


def fcn_vgg(name, encoder=PLAIN, **options):
    return jaxseg.create(name, encoder=encoder, num_classes=3, fc_features=8, **options)


MODELS = [
    ("torchfcn", fcn_vgg("fcn_vgg_32s", learn_last=True)),
    ("torchfcn", fcn_vgg("fcn_vgg_16s", learn_last=True)),
    ("torchfcn", fcn_vgg("fcn_vgg_8s_at_once", learn_last=True)),
    ("torchvision", jaxseg.create("fcn", encoder=DILATED, num_classes=3)),
    ("torchvision", jaxseg.create("fcn", encoder=DILATED, num_classes=3, aux_heads=0)),
    ("smp", jaxseg.create("unet", encoder=SMALL, num_classes=3, image_labels=5)),
    ("smp", jaxseg.create("unet", encoder="resnet50", num_classes=3, encoder_options={"depth": 3})),
    ("smp", jaxseg.create("fpn", encoder=SMALL, num_classes=1)),
    ("smp", jaxseg.create("linknet", encoder=SMALL, num_classes=2)),
    ("smp", jaxseg.create("deeplab_v3", encoder=SMALL, num_classes=2, separable=True, channels=8)),
    ("smp", jaxseg.create("deeplab_v3_plus", encoder=SMALL, num_classes=2, channels=8)),
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
@pytest.mark.sample(5)
def test_from_torch_inverts_to_torch(source, model):
    shapes = template(model)
    variables = random_like(shapes)
    state_dict = pretrained.to_torch(model, variables, source=source)
    assert len(state_dict) == len(jax.tree.leaves(variables))
    assert all(isinstance(value, np.ndarray) for value in state_dict.values())
    back = pretrained.from_torch(model, shapes, state_dict, source=source)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_to_torch_unet_has_the_names_of_smp(unet):
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


def test_to_torch_vgg_numbers_layers_and_ignores_deeper_ones():
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


def test_to_torch_vgg_classifier_of_timm_is_convolutional():
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


def test_to_torch_classifier_of_smp_is_refused():
    with pytest.raises(
        InputError, match="source 'smp' has no Classifier: its sources are timm, torchvision"
    ):
        pretrained.to_torch(DENSE, {})
    with pytest.raises(InputError, match="no names for the head ConvHead"):
        pretrained.to_torch(Classifier(VGG, ConvHead((4,))), {}, source="timm")


def test_from_torch_encoder_file_keeps_other_variables(unet):
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


def test_from_torch_ignores_classifier_and_deeper_stages(unet):
    shallow = encoders.resnet.ResNet((1, 1, 1, 1), depth=3)
    whole = pretrained.to_torch(SMALL, random_like(template(SMALL)), source="timm")
    whole |= {
        "fc.weight": np.zeros((1000, 512)),
        "fc.bias": np.zeros(1000),
        "bn1.num_batches_tracked": np.zeros(()),
    }
    variables = pretrained.from_torch(shallow, template(shallow), whole, source="timm")
    assert "stage3_block0" not in variables["params"]


def test_from_torch_keeps_the_types_of_variables():
    shapes = template(
        encoders.resnet.ResNet((1, 1, 1, 1), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    )
    state_dict = pretrained.to_torch(SMALL, random_like(template(SMALL)), source="timm")
    variables = pretrained.from_torch(SMALL, shapes, state_dict, source="timm")
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}


def test_from_torch_misfit_lists_all_misses(unet):
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


def test_from_torch_other_architecture_is_refused(unet):
    model, variables = unet
    with pytest.raises(InputError, match="do not match the model"):
        pretrained.from_torch(
            model,
            variables,
            pretrained.to_torch(SMALL, random_like(template(SMALL)), source="timm"),
        )
    deeper = encoders.resnet.ResNet((2, 1, 1, 1))
    state_dict = pretrained.to_torch(deeper, random_like(template(deeper)), source="timm")
    with pytest.raises(InputError, match=r"10 tensors without a variable:\n  layer1.1.bn1"):
        pretrained.from_torch(model, variables, state_dict, source="timm")


def test_to_torch_unknown_variable_is_refused(unet):
    model, variables = unet
    extra = {**variables, "params": {**variables["params"], "own": {"kernel": np.zeros((1, 1))}}}
    with pytest.raises(InputError, match=r"params/own/kernel \(no rule for it\)"):
        pretrained.to_torch(model, extra)
    with pytest.raises(InputError, match="a shape, not an array"):
        pretrained.to_torch(model, template(model))


def test_from_torch_shapes_need_a_file_of_everything(unet):
    model, variables = unet
    state_dict = pretrained.to_torch(SMALL, random_like(template(SMALL)), source="timm")
    with pytest.raises(InputError, match="fills the encoder alone"):
        pretrained.from_torch(model, template(model), state_dict, source="timm")
    complete = pretrained.from_torch(model, template(model), pretrained.to_torch(model, variables))
    jax.tree.map(np.testing.assert_array_equal, complete, variables)


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        (fcn_vgg("fcn_vgg_8s", VGG), "torchfcn", "the paper's FCN on a VGG without batch norm"),
        (PLAIN, "torchfcn", "source 'torchfcn' has no VGG: its sources are smp, timm, torchvision"),
        (jaxseg.create("fcn", encoder=SMALL, num_classes=2), "smp", "has no FCNHead: its sources"),
        (
            jaxseg.create("fcn_8s", encoder=SMALL, num_classes=2),
            "smp",
            "source 'smp' has no FCNSkip: smp has DeepLabV3, ",
        ),
        (SMALL, "tim", "unknown source 'tim'; did you mean 'timm'"),
        (
            jaxseg.nn.Head(2),
            "smp",
            "no weights for the encoder Head; jaxseg knows those of ",
        ),
    ],
)
def test_to_torch_without_names_says_what_there_is(model, source, message):
    with pytest.raises(InputError) as error:
        pretrained.to_torch(model, {}, source=source)
    assert message in str(error.value)


def test_to_torch_fcn_vgg_has_the_names_of_torchfcn():
    model = fcn_vgg("fcn_vgg_8s", learn_last=True)
    variables = random_like(template(model))
    state_dict = pretrained.to_torch(model, variables, source="torchfcn")
    layers = {name.partition(".")[0] for name in state_dict}
    assert layers == {
        *("conv1_1", "conv2_1", "conv2_2", "conv3_1", "conv4_1", "conv5_1", "fc6", "fc7"),
        *("score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8"),
    }
    params = variables["params"]
    np.testing.assert_array_equal(
        state_dict["fc6.weight"], params["fc6"]["kernel"].transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(
        state_dict["upscore8.weight"], params["upscore8"]["kernel"].transpose(2, 3, 0, 1)
    )
    last = {32: "upscore", 16: "upscore16"}
    for stride, name in last.items():
        other = fcn_vgg(f"fcn_vgg_{stride}s")
        names = pretrained.to_torch(other, random_like(template(other)), source="torchfcn")
        assert names[f"{name}.weight"].shape == (3, 3, 2 * stride, 2 * stride)


def test_from_torch_fixed_upsampling_has_to_be_bilinear():
    model, learned = fcn_vgg("fcn_vgg_16s"), fcn_vgg("fcn_vgg_16s", learn_last=True)
    variables = random_like(template(model))
    state_dict = pretrained.to_torch(model, variables, source="torchfcn")
    assert set(state_dict) == set(
        pretrained.to_torch(learned, random_like(template(learned)), source="torchfcn")
    )
    kernel = bilinear_kernel(jax.random.key(0), (32, 32, 3, 3))
    constant = state_dict["upscore16.weight"]
    np.testing.assert_array_equal(constant, np.asarray(kernel).transpose(2, 3, 0, 1))
    back = pretrained.from_torch(model, template(model), state_dict, source="torchfcn")
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    for wrong in (constant + np.float32(1e-3), constant[:2]):
        given = state_dict | {"upscore16.weight": wrong}
        with pytest.raises(InputError, match=r"upscore16.weight differs from the constant"):
            pretrained.from_torch(model, variables, given, source="torchfcn")
    del state_dict["upscore16.weight"]
    with pytest.raises(InputError, match=r"a constant \(no upscore16.weight\)"):
        pretrained.from_torch(model, variables, state_dict, source="torchfcn")


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_from_torch_vgg_classifier_fills_fc6_and_fc7(source):
    dense = Classifier(PLAIN, DenseHead((8, 8, 4), (7, 7)))
    given = random_like(template(dense))
    model, (_, kernels) = fcn_vgg("fcn_vgg_8s"), fully_convolutional(dense, given)
    variables = random_like(template(model), seed=1)
    state_dict = pretrained.to_torch(dense, given, source=source)
    filled = pretrained.from_torch(model, variables, state_dict, source=source)["params"]
    for ours, theirs in (("fc6", "dense0"), ("fc7", "dense1")):
        jax.tree.map(np.testing.assert_array_equal, filled[ours], kernels["params"]["head"][theirs])
    jax.tree.map(np.testing.assert_array_equal, filled["encoder"], given["params"]["encoder"])
    for name in ("score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4"):
        jax.tree.map(np.testing.assert_array_equal, filled[name], variables["params"][name])
    back = pretrained.to_torch(model, {"params": filled}, source=source)
    assert len(state_dict) == len(back) + 2
    for name, value in back.items():
        np.testing.assert_array_equal(value, state_dict[name])
    layer = "classifier.0.weight" if source == "torchvision" else "pre_logits.fc1.weight"
    wrong = state_dict | {layer: np.zeros((8, 7), np.float32)}
    with pytest.raises(InputError, match=f"1 tensors that do not fit:\n.*{layer}"):
        pretrained.from_torch(model, variables, wrong, source=source)


def test_from_torch_encoder_file_fills_that_of_an_fcn():
    model = jaxseg.create("fcn", encoder=DILATED, num_classes=2)
    variables, given = random_like(template(model)), random_like(template(SMALL), seed=1)
    state_dict = pretrained.to_torch(SMALL, given, source="torchvision")
    filled = pretrained.from_torch(model, variables, state_dict, source="torchvision")
    for key, tree in filled.items():
        jax.tree.map(np.testing.assert_array_equal, tree["encoder"], given[key])
        jax.tree.map(np.testing.assert_array_equal, tree["decoder"], variables[key]["decoder"])
    whole = pretrained.to_torch(model, filled, source="torchvision")
    assert whole["backbone.conv1.weight"].shape == (64, 3, 7, 7)
    assert whole["aux_classifier.4.bias"].shape == (2,)
