"""Small batches with everything in them: ignored pixels, an absent class, an image that is wholly ignored."""

import numpy as np
import pytest

K = 4


@pytest.fixture
def batch():
    """`batch(num_classes)`: float64 logits and labels; class 2 is absent and image 2 is ignored."""

    def make(num_classes=K, ignore_index=255, dtype=np.int32, seed=0):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(3, 5, 4, num_classes)) * 2
        labels = rng.choice([c for c in range(max(num_classes, 2)) if c != 2], (3, 5, 4))
        ignored = rng.random(labels.shape) < 0.3
        ignored[2] = True
        return logits, np.where(ignored, ignore_index, labels).astype(dtype)

    return make
