"""Writes what the peers compute, so that tests without torch compare as well.

    python tests/parity/make_references.py

Writes `tests/references/*.npz`: a part of each result (every fourth pixel, every eighth channel of
features) in float32.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch_fcn

sys.path.append(str(Path(__file__).resolve().parents[1]))
from harness import peers

FOLDER = Path(__file__).resolve().parents[1] / "references"
MODELS = {"unet": "Unet", "fpn": "FPN"}
IMAGES = (2, 64, 32, 3)
BLOCKS = (1, 1, 1, 1)
"""Of the ResNet under torchvision's FCN."""
RESIZES = {"x": (5, 7), "sizes": [(10, 14), (9, 8), (3, 2), (1, 1)]}


def part_of_logits(y):
    """Every fourth pixel of `[N, H, W, K]`."""
    return np.asarray(y)[:, ::4, ::4]


def part_of_feature(y):
    """Every fourth pixel and eighth channel of `[N, H, W, C]`."""
    return np.asarray(y)[:, ::4, ::4, ::8]


def main():
    torch, smp = peers.load("torch"), peers.load("segmentation_models_pytorch")
    timm = peers.load("timm")
    FOLDER.mkdir(exist_ok=True)

    def run(model, images, make_weights=peers.weights):
        shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if v.ndim}
        weights = {k: torch.from_numpy(v) for k, v in make_weights(shapes).items()}
        model.load_state_dict(weights, strict=True)
        with torch.no_grad():
            y = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        y = list(y.values()) if isinstance(y, dict) else y
        return [x.permute(0, 2, 3, 1).numpy() for x in (y if isinstance(y, list) else [y])]

    images = peers.images(*IMAGES)
    for name, theirs in MODELS.items():
        model = getattr(smp, theirs)("resnet18", encoder_weights=None, classes=5)
        np.savez_compressed(FOLDER / f"{name}.npz", logits=part_of_logits(run(model, images)[0]))

    sizes = (torch_fcn.CLASSES, torch_fcn.WIDTHS, torch_fcn.FEATURES)
    logits = {}
    for name, scales in torch_fcn.SCALES.items():
        model = torch_fcn.network(torch, int(name.partition("s")[0]), *sizes, scales=scales)
        (y,) = run(model, images, partial(torch_fcn.weights, scales=scales))
        logits[name] = part_of_logits(y)
    np.savez_compressed(FOLDER / "fcn_vgg.npz", **logits)

    torchvision = peers.load("torchvision")
    resnet, fcn = torchvision.models.resnet, torchvision.models.segmentation.fcn
    backbone = resnet.ResNet(
        resnet.Bottleneck, BLOCKS, replace_stride_with_dilation=[False, True, True]
    )
    heads = zip(("logits", "aux"), run(fcn._fcn_resnet(backbone, 5, True), images), strict=True)
    np.savez_compressed(FOLDER / "fcn.npz", **{name: part_of_logits(y) for name, y in heads})

    encoder = timm.create_model("resnet50", features_only=True, output_stride=16)
    features = {f"feature{i}": part_of_feature(y) for i, y in enumerate(run(encoder, images))}
    np.savez_compressed(FOLDER / "resnet50.npz", **features)

    x = torch.from_numpy(peers.images(1, *RESIZES["x"], 2).transpose(0, 3, 1, 2).copy())
    conventions = {
        "nearest": {"mode": "nearest"},
        "half_pixel": {"mode": "bilinear", "align_corners": False},
        "corners": {"mode": "bilinear", "align_corners": True},
    }
    resized = {}
    for convention, options in conventions.items():
        for size in RESIZES["sizes"]:
            y = torch.nn.functional.interpolate(x, size=size, **options)
            resized[f"{convention}_{size[0]}x{size[1]}"] = y.permute(0, 2, 3, 1).numpy()
    np.savez_compressed(FOLDER / "resize.npz", **resized)


if __name__ == "__main__":
    main()
