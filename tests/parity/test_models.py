"""Logits of architectures equal those of segmentation_models.pytorch for the same weights."""

import numpy as np
import pytest
from harness import peers
from harness.encoders import count, fast_jit, shapes

import jaxseg
from jaxseg import pretrained
from jaxseg.pretrained.plan import make_plan

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", peers.SMP_LOGITS)
def test_logits_equal_smp(segmentation_models_pytorch, variables_like, run_torch, case):
    build = getattr(segmentation_models_pytorch, case.peer)
    peer = build(
        **{"encoder_name": case.encoder, **case.peer_options}, encoder_weights=None, classes=4
    )
    model = jaxseg.create(
        case.name,
        encoder=case.encoder,
        num_classes=4,
        encoder_options=case.options,
        **case.model_options,
    )
    channels = model.encoder.in_channels
    state_dict = peers.weights({k: tuple(v.shape) for k, v in peer.state_dict().items() if v.ndim})
    names = make_plan(model, "smp").key_map
    for key in {f"{layer}.weight" for layer in names.transposed} & state_dict.keys():
        state_dict[key] *= 2  # at a stride of 2 a pixel of the result sees a quarter of the taps
    _, variables = variables_like(model, "smp", channels, state_dict)
    back = pretrained.to_torch(model, variables)
    for key, value in state_dict.items():
        if key in back:
            np.testing.assert_array_equal(back[key], value)
        else:  # smp builds stages and heads that it leaves unused
            assert names.ignores(key)
    images = peers.images(2, *case.size, channels)
    logits = fast_jit(model.apply)(variables, images).logits
    expected = run_torch(peer, state_dict, images)
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_image_head_equals_smp(segmentation_models_pytorch, variables_like, run_torch):
    peer = segmentation_models_pytorch.Unet(
        "resnet18", encoder_weights=None, classes=2, aux_params={"classes": 7, "dropout": 0.5}
    )
    model = jaxseg.create("unet", encoder="resnet18", num_classes=2, image_labels=7)
    state_dict, variables = variables_like(model, "smp")
    images = peers.images(2, 32, 32, 3)
    output = fast_jit(model.apply)(variables, images)
    logits, labels = run_torch(peer, state_dict, images)
    np.testing.assert_allclose(output.logits, logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(output.image_logits, labels, rtol=0, atol=1e-4)


PEERS = {row.values[0].name: row.values[0].peer for row in peers.SMP_LOGITS}
ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19_bn")
COUNTED = [
    *((name, encoder) for name in ("unet", "fpn") for encoder in ENCODERS),
    *((name, "resnet50") for name in PEERS if name not in ("unet", "fpn")),
]


@pytest.mark.parametrize(("name", "encoder"), COUNTED)
def test_number_of_parameters_is_that_of_smp(torch, segmentation_models_pytorch, name, encoder):
    with torch.device("meta"):
        build = getattr(segmentation_models_pytorch, PEERS[name])
        expected = build(encoder, encoder_weights=None, encoder_depth=5)
    variables = shapes(jaxseg.create(name, encoder=encoder, num_classes=1))[1]
    assert count(variables) == sum(p.numel() for p in expected.parameters())
