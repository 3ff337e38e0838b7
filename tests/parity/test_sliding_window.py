"""Sliding windows equal MONAI's for a network whose output depends on where a window begins."""

import jax.numpy as jnp
import numpy as np
import pytest
from harness import peers
from harness.encoders import fast_jit

from jaxseg.inference import SlidingWindow
from jaxseg.typing import Output

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


class Sums:
    """Sums from a window's first row and column on."""

    def apply(self, variables, images, train=False):
        return Output(jnp.cumsum(images, 1) + 0.1 * jnp.cumsum(images, 2))


@pytest.fixture(scope="module")
def sliding_window_inference():
    try:
        return peers.load("monai.inferers").sliding_window_inference
    except ImportError as error:
        pytest.skip(f"monai cannot be imported here: {error}")


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("size", [(50, 70), (16, 24), (10, 40), (7, 9), (33, 24)])
def test_equals_monai(torch, sliding_window_inference, size, overlap, blend):
    images = peers.images(2, *size, 3)
    ours = SlidingWindow(Sums(), (16, 24), overlap, blend, batch_size=3)
    theirs = sliding_window_inference(
        torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2)),
        (16, 24),
        sw_batch_size=4,
        predictor=lambda x: torch.cumsum(x, 2) + 0.1 * torch.cumsum(x, 3),
        overlap=overlap,
        mode=blend,
    )
    expected = theirs.numpy().transpose(0, 2, 3, 1)
    got = fast_jit(ours.apply)({}, images).logits
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
