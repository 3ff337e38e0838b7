"""The weights of architectures in other libraries, one per file, which ends with `WEIGHTS`."""

from jaxseg import registry
from jaxseg.pretrained.weights import ModelWeights

MODELS: dict[str, ModelWeights] = {
    weights.module: weights for weights in registry.collect(__name__, "WEIGHTS")
}
"""The specs of all architectures by the path of their class."""
