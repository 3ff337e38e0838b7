"""Short trainings on the embedded data set in memory, for the experiments of the tutorial."""

from collections.abc import Callable

import jax
import numpy as np

from jaxseg import data, encoders, losses, train
from jaxseg.parallel import Parallel

Arrays = tuple[np.ndarray, np.ndarray]
BATCH = 16


def generate(length: int, size: int, seed: int, table: tuple[int, ...]) -> Arrays:
    """Returns images `[n, size, size, 3]` and labels `[n, size, size]`, in which class c of the set is `table[c]`."""
    records = list(data.Shapes(length, (size, size), seed=seed))
    labels = np.stack([record["label"] for record in records])
    return np.stack([record["image"] for record in records]), np.asarray(table, np.uint8)[labels]


def small_encoder(depth: int) -> encoders.vgg.VGG:
    """Returns a VGG with one convolution per stage, few channels and batch normalization."""
    return encoders.vgg.VGG((1, 1, 1, 1, 1), True, (8, 16, 32, 48, 64), depth=depth)


class Trainer:
    """A network and a loss, compiled once and trained from any number of seeds."""

    def __init__(self, model, loss: str, steps: int, *, batch: int = BATCH, peak: float = 3e-3):
        self.model, self.steps, self.batch = model, steps, batch
        schedule = train.cosine(peak, steps, warmup_steps=steps // 10)
        self.optimizer = train.adamw(schedule)
        self.parallel = Parallel("jit", jax.devices()[:1])
        loss_fn, normalize = losses.make_loss_fn({loss: 1.0}), data.normalize()
        self.step = self.parallel.compile(
            train.make_train_step(model, self.optimizer, loss_fn, preprocess=normalize)
        )

        def logits(state, batch):
            return model.apply(state.variables, normalize(batch["image"])).logits

        self._logits = self.parallel.compile(logits, donate=())

    def run(self, arrays: Arrays, seed: int, watch: Callable | None = None) -> train.TrainState:
        """Trains on random batches, half of them flipped; calls `watch(step, state)` before each step and at the end."""
        images, labels = arrays
        rng = np.random.default_rng(seed)
        variables = train.init(self.model, jax.random.key(seed))
        state = self.parallel.replicate(train.create_state(variables, self.optimizer))
        for step in range(self.steps):
            if watch is not None:
                watch(step, state)
            rows = rng.choice(len(images), self.batch, replace=False)
            flip = np.s_[:, :, ::-1] if rng.random() < 0.5 else np.s_[:]
            batch = {"image": images[rows][flip], "label": labels[rows][flip]}
            state, _ = self.step(state, self.parallel.shard(batch), jax.random.key(seed))
        if watch is not None:
            watch(self.steps, state)
        return state

    def logits(self, state: train.TrainState, images: np.ndarray) -> np.ndarray:
        """Returns logits `[n, H, W, K]` of any number of images."""
        parts = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            full = np.concatenate([part, np.zeros_like(images[: self.batch - len(part)])])
            logits = self._logits(state, self.parallel.shard({"image": full}))
            parts.append(np.asarray(logits)[: len(part)])
        return np.concatenate(parts)
