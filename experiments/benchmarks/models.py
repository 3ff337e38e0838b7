"""Train steps and inference of whole networks beside their twins in PyTorch, which take turns.

The twins are segmentation_models.pytorch's U-Net and FPN and torchvision's FCN, from random weights, channels last, with
AdamW and cross-entropy, as they come ("eager") and through `torch.compile`. Each side has a process of its own; see
`turns.py`. bfloat16 is `dtype=bfloat16` here and autocast there; parameters are float32 in both.

    python experiments/benchmarks/models.py --network unet_resnet34 --task train
    python experiments/benchmarks/models.py --network fcn_resnet50 --task infer --size 512 --dtype bfloat16

Needs torch, torchvision and segmentation_models.pytorch. Prints a row for each side and appends them to
docs/benchmarks.md with `--append`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import turns
import tyro
from page import append
from turns import Timing, take_turns

HEADING = "## Networks beside their twins"
INTRODUCTION = """Rows of `python experiments/benchmarks/models.py --append`: medians of runs that take turns, half the
distance of the quartiles over the median, how many times as fast as the faster twin, start and compiling, peak memory.

| what | side | median | spread | ratio | ready after | peak | where and when |
|---|---|---|---|---|---|---|---|"""
CLASSES = 12
NETWORKS = {
    "unet_resnet34": ("unet", "resnet34", {}),
    "unet_resnet50": ("unet", "resnet50", {}),
    "fpn_resnet50": ("fpn", "resnet50", {}),
    "fcn_resnet50": ("fcn", "resnet50", {"output_stride": 8}),
}


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    network: Literal["unet_resnet34", "unet_resnet50", "fpn_resnet50", "fcn_resnet50"] = (
        "unet_resnet34"
    )
    """Architecture and encoder."""
    task: Literal["train", "infer"] = "train"
    """One AdamW step, or logits alone."""
    batch: int = 4
    """Images of a batch."""
    size: int = 256
    """Their height and width."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to compute in."""
    rounds: int = 9
    """How often each side is timed."""
    compiled: bool = True
    """Whether the twin runs through torch.compile as well."""
    append: bool = False
    """Whether to append the rows to docs/benchmarks.md."""


def batch_of(arguments: Arguments) -> tuple[np.ndarray, np.ndarray]:
    """Random images `[N, H, W, 3]` and labels."""
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.size, arguments.size)
    return (
        rng.normal(size=(*shape, 3)).astype(np.float32),
        rng.integers(0, CLASSES, shape).astype(np.uint8),
    )


def jaxseg_side(arguments: Arguments, folded: bool = False) -> Callable[[], Any]:
    """What a user of jaxseg runs: `Parallel.compile` of the library's own steps, perhaps without normalisations."""
    import jax
    import jax.numpy as jnp

    import jaxseg
    from jaxseg import inference, train

    name, encoder, options = NETWORKS[arguments.network]
    model = jaxseg.create(
        name,
        encoder=encoder,
        num_classes=CLASSES,
        encoder_options=options,
        dtype=jnp.dtype(arguments.dtype),
    )
    parallel = train.Parallel("jit", jax.devices()[:1])
    variables = train.initialize(model, jax.random.key(0))
    images, labels = batch_of(arguments)
    batch = parallel.shard({"image": images, "label": labels})
    if arguments.task == "infer":
        logits = parallel.compile(
            lambda variables, batch: model.apply(variables, batch["image"]).logits, donate=()
        )
        variables = inference.fold_batch_norm(variables) if folded else variables
        variables = parallel.replicate(variables)
        return lambda: jax.block_until_ready(logits(variables, batch))
    optimizer = train.adamw(1e-4)
    loss = jaxseg.losses.make_loss_fn({"cross_entropy": 1.0})
    step = parallel.compile(train.make_train_step(model, optimizer, loss))
    state = parallel.replicate(train.create_state(variables, optimizer))
    key = jax.random.key(0)

    def run() -> None:
        nonlocal state
        state, logs = step(state, batch, key)
        jax.block_until_ready((state, logs))

    return run


def torch_side(arguments: Arguments, compiled: bool) -> Callable[[], Any]:
    """The twin."""
    import peers
    import torch

    name, encoder, _ = NETWORKS[arguments.network]
    if name == "fcn":
        networks = peers.torchvision().models.segmentation
        model = getattr(networks, f"fcn_{encoder}")(
            weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
        )
    else:
        smp = peers.segmentation_models_pytorch()
        build = {"unet": smp.Unet, "fpn": smp.FPN}[name]
        model = build(encoder, encoder_weights=None, classes=CLASSES)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device, memory_format=torch.channels_last)
    images, labels = (torch.from_numpy(x).to(device) for x in batch_of(arguments))
    images, labels = images.permute(0, 3, 1, 2), labels.long()
    forward = torch.compile(model) if compiled else model
    half = arguments.dtype == "bfloat16"

    def logits() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            output = forward(images)
        return output["out"] if isinstance(output, dict) else output

    def finish(value: Any) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        return value

    if arguments.task == "infer":
        model.eval()

        def infer() -> Any:
            with torch.inference_mode():
                return finish(logits())

        return infer
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(logits().float(), labels)
        loss.backward()
        optimizer.step()
        return finish(loss.item())

    return step


def rows(arguments: Arguments, timings: dict[str, Timing]) -> list[str]:
    """A table's rows, one for each side, the ratio to the fastest twin in each of them."""
    what = (
        f"{arguments.network}, {arguments.task}, {arguments.batch} x {arguments.size} x "
        f"{arguments.size}, {arguments.dtype}"
    )
    return turns.rows(what, timings)


def main(arguments: Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as `jaxseg train` has it
    sides: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "jaxseg": (jaxseg_side, (arguments,)),
        "torch": (torch_side, (arguments, False)),
    }
    if arguments.task == "infer":
        sides["jaxseg, folded"] = (jaxseg_side, (arguments, True))
    if arguments.compiled:
        sides["torch.compile"] = (torch_side, (arguments, True))
    lines = rows(arguments, take_turns(sides, arguments.rounds))
    print("\n".join(lines))
    if arguments.append:
        append(HEADING, INTRODUCTION, lines)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
