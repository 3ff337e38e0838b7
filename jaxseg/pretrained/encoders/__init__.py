"""The weights of encoders in other libraries, one family per file, which ends with `WEIGHTS`."""

from jaxseg import registry
from jaxseg.pretrained.weights import EncoderWeights

ENCODERS: dict[str, EncoderWeights] = {
    weights.module: weights for weights in registry.collect(__name__, "WEIGHTS")
}
"""The specs of all families by the path of their class."""
