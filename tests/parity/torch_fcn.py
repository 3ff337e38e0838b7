"""The paper's FCN written in torch, with the names of its public PyTorch port, and small networks of it."""

import numpy as np
from harness import peers

CONVOLUTIONS = (2, 2, 3, 3, 3)
CROPS = {  # padding: pool4's scores, pool3's, and the logits of each stride
    100: (5, 9, {32: 19, 16: 27, 8: 31}),
    1: (-1, -1, {32: 16, 16: 8, 8: 4}),
}

SCALES = {"32s": (1, 1), "16s": (1, 1), "8s": (1, 1), "8s_at_once": (0.01, 0.0001)}
"""Of pool4 and pool3, for each network; the number that a name begins with is its stride."""
WIDTHS, FEATURES, CLASSES = (4, 6, 8, 10, 12), 16, 5
"""Of a network that is small enough for tests."""


def weights(shapes, scales):
    """Random weights with which every part is heard in the logits."""
    state_dict = peers.weights(shapes)
    for name, value in state_dict.items():
        if name.startswith("score_pool") and value.ndim == 4:
            value /= np.float32(scales[name.startswith("score_pool3")])
        elif name.startswith("upscore"):
            value *= np.float32(value.shape[2] / 2)
    return state_dict


def network(
    torch, stride, classes, widths=(64, 128, 256, 512, 512), fc=4096, padding=100, scales=(1, 1)
):
    """FCN-32s, 16s or 8s; `scales` are those of pool4 and pool3."""
    nn, functional = torch.nn, torch.nn.functional

    class FCN(nn.Module):
        def __init__(self):
            super().__init__()
            channels = 3
            for stage, count in enumerate(CONVOLUTIONS, start=1):
                for i in range(1, count + 1):
                    pad = padding if (stage, i) == (1, 1) else 1
                    layer = nn.Conv2d(channels, widths[stage - 1], 3, padding=pad)
                    self.add_module(f"conv{stage}_{i}", layer)
                    channels = widths[stage - 1]
            self.fc6 = nn.Conv2d(channels, fc, 7, padding=0 if padding == 100 else 3)
            self.fc7 = nn.Conv2d(fc, fc, 1)
            self.score_fr = nn.Conv2d(fc, classes, 1)
            if stride <= 16:
                self.score_pool4 = nn.Conv2d(widths[3], classes, 1)
                self.upscore2 = self.up(2)
            if stride == 8:
                self.score_pool3 = nn.Conv2d(widths[2], classes, 1)
                self.upscore_pool4 = self.up(2)
            self.last = "upscore" if stride == 32 else f"upscore{stride}"
            self.add_module(self.last, self.up(stride))

        def up(self, factor):
            return nn.ConvTranspose2d(classes, classes, 2 * factor, factor, bias=False)

        def forward(self, images):
            pools, x = [], images
            for stage, count in enumerate(CONVOLUTIONS, start=1):
                for i in range(1, count + 1):
                    x = functional.relu(getattr(self, f"conv{stage}_{i}")(x))
                x = functional.max_pool2d(x, 2, 2, ceil_mode=True)
                pools.append(x)
            x = functional.relu(self.fc7(functional.relu(self.fc6(x))))
            x = self.score_fr(x)
            of_pool4, of_pool3, of_logits = CROPS[padding]
            if stride <= 16:
                x = added(self.upscore2(x), self.score_pool4(scales[0] * pools[3]), of_pool4)
            if stride == 8:
                x = added(self.upscore_pool4(x), self.score_pool3(scales[1] * pools[2]), of_pool3)
            x, crop, (height, width) = (
                getattr(self, self.last)(x),
                of_logits[stride],
                images.shape[2:],
            )
            return x[:, :, crop : crop + height, crop : crop + width]

    def added(coarse, fine, crop):
        if crop > 0:
            return coarse + fine[:, :, crop : crop + coarse.shape[2], crop : crop + coarse.shape[3]]
        (height, width), crop = fine.shape[2:], -crop
        return coarse[:, :, crop : crop + height, crop : crop + width] + fine

    return FCN()
