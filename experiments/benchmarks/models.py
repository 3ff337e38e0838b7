"""Times train steps and inference of networks beside the same networks in PyTorch.

The peers are segmentation_models.pytorch's U-Net and FPN and torchvision's FCN, with random weights, channels last, AdamW
and cross-entropy, in eager mode ("torch") and through `torch.compile`. The sides run alternately, each in its own process
(see `interleave.py`). bfloat16 means `dtype=bfloat16` in jaxseg and autocast in PyTorch; parameters are float32 in both.

    python experiments/benchmarks/models.py --network unet_resnet34 --task train
    python experiments/benchmarks/models.py --network fcn_resnet50 --task infer --size 512 --dtype bfloat16

Needs torch, torchvision and segmentation_models.pytorch. Prints a row for each side; `--append` adds them to
docs/benchmarks.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from append_table import append, rows
from interleave import Timing, records, time_alternately

CLASSES = 12
NETWORKS = {
    "unet_resnet34": ("unet", "resnet34", {}),
    "unet_resnet50": ("unet", "resnet50", {}),
    "fpn_resnet50": ("fpn", "resnet50", {}),
    "fcn_resnet50": ("fcn", "resnet50", {"output_stride": 8}),
}


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    network: Literal["unet_resnet34", "unet_resnet50", "fpn_resnet50", "fcn_resnet50"] = (
        "unet_resnet34"
    )
    """Architecture and encoder."""
    task: Literal["train", "infer"] = "train"
    """One step of AdamW, or the logits only."""
    batch: int = 4
    """Images per batch."""
    size: int = 256
    """Their height and width."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type of the computation."""
    rounds: int = 9
    """Timed runs per side."""
    compiled: bool = True
    """Whether to time the peer through torch.compile as well."""
    append: bool = False
    """Whether to append the result to docs/benchmarks.md."""


def batch_of(arguments: Arguments) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images `[N, H, W, 3]` and labels `[N, H, W]`."""
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.size, arguments.size)
    return (
        rng.normal(size=(*shape, 3)).astype(np.float32),
        rng.integers(0, CLASSES, shape).astype(np.uint8),
    )


def jaxseg_side(arguments: Arguments, folded: bool = False) -> Callable[[], Any]:
    """Returns the function to time of jaxseg: `Parallel.compile` of the library's own steps.

    Args:
        arguments: The network and the task.
        folded: Whether to fold batch normalizations into the convolutions, for inference.
    """
    import jax
    import jax.numpy as jnp

    import jaxseg
    from jaxseg import inference, train
    from jaxseg.parallel import Parallel

    name, encoder, options = NETWORKS[arguments.network]
    model = jaxseg.create(
        name,
        encoder=encoder,
        num_classes=CLASSES,
        encoder_options=options,
        dtype=jnp.dtype(arguments.dtype),
    )
    parallel = Parallel("jit", jax.devices()[:1])
    variables = train.init(model, jax.random.key(0))
    images, labels = batch_of(arguments)
    batch = parallel.shard({"image": images, "label": labels})
    if arguments.task == "infer":
        logits = parallel.compile(
            lambda variables, batch: model.apply(variables, batch["image"]).logits, donate=()
        )
        variables = inference.fold_batch_norm(model, variables) if folded else variables
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
    """Returns the function to time of PyTorch."""
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


def results(arguments: Arguments, timings: dict[str, Timing]) -> list[dict[str, Any]]:
    """Returns the record of each side."""
    what = (
        f"{arguments.network}, {arguments.task}, {arguments.batch} x {arguments.size} x "
        f"{arguments.size}, {arguments.dtype}"
    )
    return records(what, timings)


def main(arguments: Arguments) -> None:
    """Measures, prints and, on request, appends."""
    sides: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "jaxseg": (jaxseg_side, (arguments,)),
        "torch": (torch_side, (arguments, False)),
    }
    if arguments.task == "infer":
        sides["jaxseg, folded"] = (jaxseg_side, (arguments, True))
    if arguments.compiled:
        sides["torch.compile"] = (torch_side, (arguments, True))
    measured = results(arguments, time_alternately(sides, arguments.rounds))
    print("\n".join(rows("models", measured)))
    if arguments.append:
        append("models", measured)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
