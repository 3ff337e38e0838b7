"""Names of a VGG's weights in torchvision, timm and segmentation_models.pytorch, which agree.

All three number the layers of one sequence: convolution, normalisation, ReLU, ..., max-pool.
"""

from jaxseg.pretrained.table import Table

WITHOUT_CLASSIFIER = Table((), (r"classifier\..*", r"pre_logits\..*", r"head\.fc\..*"))
"""What torchvision and timm have besides."""
STEM = "features.0.weight"


def table(convolutions: tuple[int, ...], batch_norm: bool, depth: int) -> Table:
    """The table of a VGG with so many features, without deeper stages."""
    rules, deeper, layer = [], [], 0
    for stage, count in enumerate(convolutions, start=1):
        for i in range(count):
            layers = {"conv": f"features.{layer}"}
            layer += 1
            if batch_norm:
                layers["norm"] = f"features.{layer}"
                layer += 1
            layer += 1  # ReLU
            if stage <= depth + 1:
                rules += [(f"stage{stage}_conv{i}/{ours}", name) for ours, name in layers.items()]
            else:
                deeper += [rf"features\.{name.split('.')[1]}\..*" for name in layers.values()]
        layer += 1  # max-pool
    return Table(tuple(rules), tuple(deeper))


def classifier(window: tuple[int, int], source: str) -> Table:
    """The table of the dense layers, which timm keeps as convolutions, the first of that size."""
    if source == "torchvision":
        return Table(tuple((f"dense{i}", f"classifier.{3 * i}") for i in range(3)))
    layers = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
    return Table(
        tuple((f"dense{i}", layer) for i, layer in enumerate(layers)),
        windows=((layers[0], window), (layers[1], (1, 1))),
    )
