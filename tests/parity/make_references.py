"""Writes what the peers compute, so that tests without torch compare as well.

    python tests/parity/make_references.py

Writes `tests/references/*.npz`: a part of each result (every fourth pixel, every eighth channel of
features) in float32.
"""

from pathlib import Path

import numpy as np
import peers

FOLDER = Path(__file__).resolve().parents[1] / "references"
MODELS = {"unet": "Unet", "fpn": "FPN"}
IMAGES = (2, 64, 32, 3)
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

    def run(model, images):
        shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if v.ndim}
        weights = {k: torch.from_numpy(v) for k, v in peers.weights(shapes).items()}
        model.load_state_dict(weights, strict=True)
        with torch.no_grad():
            y = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        return [x.permute(0, 2, 3, 1).numpy() for x in (y if isinstance(y, list) else [y])]

    images = peers.images(*IMAGES)
    for name, theirs in MODELS.items():
        model = getattr(smp, theirs)("resnet18", encoder_weights=None, classes=5)
        np.savez_compressed(FOLDER / f"{name}.npz", logits=part_of_logits(run(model, images)[0]))

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
