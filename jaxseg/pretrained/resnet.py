"""Names of a ResNet's weights in torchvision, timm and segmentation_models.pytorch, which agree."""

from jaxseg.pretrained.table import Table

STEM = "conv1.weight"
_BLOCK = r"stage(\d)_block(\d+)"


def table(depth: int) -> Table:
    """The table of a ResNet with so many features, without the classifier and deeper stages."""
    rules = (
        (r"stem/conv", r"conv1"),
        (r"stem/norm", r"bn1"),
        (rf"{_BLOCK}/conv(\d)/conv", r"layer\1.\2.conv\3"),
        (rf"{_BLOCK}/conv(\d)/norm", r"layer\1.\2.bn\3"),
        (rf"{_BLOCK}/shortcut/conv", r"layer\1.\2.downsample.0"),
        (rf"{_BLOCK}/shortcut/norm", r"layer\1.\2.downsample.1"),
    )
    deeper = tuple(rf"layer{stage}\..*" for stage in range(depth, 5))
    return Table(rules, (r"fc\.(weight|bias)", *deeper))
