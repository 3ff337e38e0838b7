"""Names of a ResNet's weights in torchvision, timm and segmentation_models.pytorch, which agree."""

from jaxseg.pretrained.table import Table

CLASSIFIER = Table(((r"dense0", "fc"),))
WITHOUT_CLASSIFIER = Table((), (r"fc\.(weight|bias)",))
STEM = "conv1.weight"
_BLOCK = r"stage(\d)_block(\d+)"


def table(depth: int) -> Table:
    """The table of a ResNet with so many features, without deeper stages."""
    rules = (
        (r"stem/conv", r"conv1"),
        (r"stem/norm", r"bn1"),
        (rf"{_BLOCK}/conv(\d)/conv", r"layer\1.\2.conv\3"),
        (rf"{_BLOCK}/conv(\d)/norm", r"layer\1.\2.bn\3"),
        (rf"{_BLOCK}/shortcut/conv", r"layer\1.\2.downsample.0"),
        (rf"{_BLOCK}/shortcut/norm", r"layer\1.\2.downsample.1"),
    )
    return Table(rules, tuple(rf"layer{stage}\..*" for stage in range(depth, 5)))
