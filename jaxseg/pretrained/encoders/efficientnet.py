"""The weights of EfficientNet with timm's names, and with those of smp's own encoder."""

from typing import Any

from jaxseg.pretrained.encoders import mobilenet_v2
from jaxseg.pretrained.key_map import KeyMap
from jaxseg.pretrained.weights import INCEPTION, EncoderWeights, Published

_TRAINED = {  # tags of timm's weights by size, for images normalized as ImageNet's
    "efficientnet_b0": ("ra_in1k",),
    "efficientnet_b1": ("ft_in1k",),
    "efficientnet_b2": ("ra_in1k",),
    "efficientnet_b3": ("ra2_in1k",),
    "efficientnet_b4": ("ra2_in1k",),
    "efficientnet_b5": ("sw_in12k_ft_in1k", "sw_in12k"),
    "efficientnet_lite0": ("ra_in1k",),
    "tf_efficientnet_b0": ("ns_jft_in1k", "aa_in1k", "in1k"),
    "tf_efficientnet_b1": ("ns_jft_in1k", "aa_in1k", "in1k"),
    "tf_efficientnet_b2": ("ns_jft_in1k", "aa_in1k", "in1k"),
    "tf_efficientnet_b3": ("ns_jft_in1k", "aa_in1k", "in1k"),
    "tf_efficientnet_b4": ("ns_jft_in1k", "aa_in1k", "in1k"),
    "tf_efficientnet_b5": ("ns_jft_in1k", "ra_in1k", "aa_in1k", "in1k"),
    "tf_efficientnet_b6": ("ns_jft_in1k", "aa_in1k"),
    "tf_efficientnet_b7": ("ns_jft_in1k", "ra_in1k", "aa_in1k"),
}
_TRAINED_FROM_MINUS_ONE_TO_ONE = {  # the same for images from -1 to 1
    "efficientnet_b0": ("ra4_e3600_r224_in1k",),
    "efficientnet_b1": ("ra4_e3600_r240_in1k",),
    **{f"tf_efficientnet_b{size}": ("ap_in1k",) for size in range(8)},
    **{f"tf_efficientnet_lite{size}": ("in1k",) for size in range(5)},
}


def key_map(encoder: Any, source: str) -> KeyMap:
    """Returns the names of an EfficientNet's variables; stages below its depth are left out.

    One whose first feature is the stem's map is smp's own (`efficientnet-b0`), with names of its own
    there. smp counts blocks through all stages. Its B0 alone takes the fourth feature in the middle of a
    stage, so that a decoder trained on that one finds another feature here.
    """
    if source != "smp" or not encoder.stem_feature:
        return mobilenet_v2.key_map(encoder, source)
    rules = [(r"stem/conv", r"_conv_stem"), (r"stem/norm", r"_bn0")]
    first = 0
    for stage, blocks in enumerate(encoder.blocks):
        for i in range(blocks):
            ours, theirs = f"stage{stage}_block{i}", f"_blocks.{first + i}"
            for layer, norm in (("expand", 0), ("depthwise", 1), ("project", 2)):
                rules.append((f"{ours}/{layer}/conv", f"{theirs}._{layer}_conv"))
                rules.append((f"{ours}/{layer}/norm", f"{theirs}._bn{norm}"))
            for layer in ("reduce", "expand"):
                rules.append((f"{ours}/squeeze_excite/{layer}", f"{theirs}._se_{layer}"))
        first += blocks
    built = sum(encoder.blocks[: encoder.built_stages])
    deeper = (rf"_blocks\.{block}\..*" for block in range(built, sum(encoder.blocks)))
    head = (r"_conv_head\..*", r"_bn1\..*", r"_fc\..*")
    return KeyMap(tuple(rules), (*deeper, *head))


WEIGHTS = EncoderWeights(
    module="jaxseg.encoders.efficientnet:EfficientNet",
    key_map=key_map,
    stem="stem/conv",
    ignored=(r"conv_head\..*", r"bn2\..*", r"classifier\..*"),
    sources=("timm", "smp"),
    hub={
        f"timm/{name}.{tag}": Published(name, None, "apache-2.0", **images)
        for table, images in ((_TRAINED, {}), (_TRAINED_FROM_MINUS_ONE_TO_ONE, INCEPTION))
        for name, tags in table.items()
        for tag in tags
    },
)
