"""The two sides of `gpu.py`: a network of jaxseg and its twin in PyTorch, each as it is fastest, on one device.

Both keep images `[N, H, W, 3]` in float32 and labels on the device, compute in the type asked for with parameters in float32,
and take several steps before they are waited for, as training does. jax and torch are imported where a side is made: each
side has a process of its own, and what it may take of a GPU's memory is told to JAX beforehand.
"""

import dataclasses
import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

CLASSES = 12
AUX_WEIGHT = 0.4
NETWORKS = {
    "unet_resnet34": ("unet", "resnet34", {}),
    "fcn_resnet50": ("fcn", "resnet50", {"output_stride": 8}),
    "fpn_resnet50": ("fpn", "resnet50", {}),
}
EAGER = "eager"


@dataclasses.dataclass(frozen=True)
class Case:
    """What both sides do.

    Attributes:
        network: A name of `NETWORKS`.
        task: `"train"`, a step of AdamW on the cross-entropy, or `"infer"`, logits alone.
        size: Height and width of the images.
        dtype: `"bfloat16"` or `"float32"`.
        mode: Of `torch.compile`; `"eager"` leaves it out.
        steps: How many are taken before one waits.
        memory: Which part of the GPU's memory a side may have.
    """

    network: str
    task: str
    size: int = 512
    dtype: str = "bfloat16"
    mode: str = "max-autotune"
    steps: int = 5
    memory: float = 0.45


@dataclasses.dataclass(frozen=True)
class Program:
    """A side that is ready.

    Attributes:
        run: Takes the case's steps and waits for them.
        peak: Bytes of the device's memory that were in use at most; None where it does not tell.
        device: Its name.
        flops: Floating-point operations of a step, not-a-number where nobody counts them.
        text: The compiled program, where there is one to read.
    """

    run: Callable[[], Any]
    peak: Callable[[], int | None]
    device: str
    flops: float = math.nan
    text: str = ""


def jaxseg_side(case: Case, batch: int) -> Program:
    """What a user of jaxseg runs: the program of `Parallel.compile`, read before it runs."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(case.memory))
    import jax
    import jax.numpy as jnp

    import jaxseg
    from jaxseg import train

    name, encoder, options = NETWORKS[case.network]
    model = jaxseg.create(
        name,
        encoder=encoder,
        num_classes=CLASSES,
        encoder_options=options,
        dtype=jnp.dtype(case.dtype),
    )
    device = jax.devices()[0]
    parallel = train.Parallel("jit", [device])
    images, labels = _batch(case, batch)
    shown = parallel.shard({"image": images, "label": labels})
    variables = train.initialize(model, jax.random.key(0))
    if case.task == "infer":
        state, key = parallel.replicate(variables), ()

        def step(variables: Any, batch: Any) -> Any:
            return model.apply(variables, batch["image"]).logits

        donate = ()
    else:
        optimizer = train.adamw(1e-4)
        loss = jaxseg.losses.make_loss_fn({"cross_entropy": 1.0}, aux_weight=AUX_WEIGHT)
        step = train.make_train_step(model, optimizer, loss)
        state = parallel.replicate(train.create_state(variables, optimizer))
        key = (parallel.replicate(jax.random.key(0)),)
        donate = (0,)
    del variables
    compiled = parallel.lower(step, state, shown, *key, donate=donate).compile()

    def run() -> None:
        nonlocal state
        result = None
        for _ in range(case.steps):
            result = compiled(state, shown, *key)
            if case.task == "train":
                state, result = result
        jax.block_until_ready(result)

    def peak() -> int | None:
        return (device.memory_stats() or {}).get("peak_bytes_in_use")

    # Counted as lowered for the CPU: a GPU's program calls cuDNN, whose work XLA does not know, and its lowered form is
    # not counted by JAX.
    host = train.Parallel("jit", jax.devices("cpu")[:1])
    counted = host.lower(step, state, shown, *key, donate=donate)
    flops = (counted.cost_analysis() or {}).get("flops", math.nan)
    return Program(run, peak, device.device_kind, flops, compiled.as_text())


def torch_side(case: Case, batch: int) -> Program:
    """The twin: channels last, autocast, fused AdamW, and network and loss in one `torch.compile`."""
    import peers
    import torch

    name, encoder, _ = NETWORKS[case.network]
    if name == "fcn":
        model = getattr(peers.torchvision().models.segmentation, f"fcn_{encoder}")(
            weights=None,
            weights_backbone=None,
            num_classes=CLASSES,
            aux_loss=case.task == "train",
        )
    else:
        smp = peers.segmentation_models_pytorch()
        model = {"unet": smp.Unet, "fpn": smp.FPN}[name](
            encoder, encoder_weights=None, classes=CLASSES
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(case.memory)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    model = model.to(device, memory_format=torch.channels_last)
    images, labels = (torch.from_numpy(array).to(device) for array in _batch(case, batch))
    images, labels = images.permute(0, 3, 1, 2), labels.long()
    half = case.dtype == "bfloat16"
    wait = torch.cuda.synchronize if on_gpu else lambda: None

    def logits() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            return model(images)

    def loss() -> Any:
        output, entropy = logits(), torch.nn.functional.cross_entropy
        if not isinstance(output, dict):
            return entropy(output.float(), labels)
        main, aux = output["out"].float(), output["aux"].float()
        return entropy(main, labels) + AUX_WEIGHT * entropy(aux, labels)

    forward: Any = loss if case.task == "train" else logits
    if case.mode != EAGER:
        forward = torch.compile(forward, mode=case.mode, dynamic=False)

    @torch.inference_mode()
    def infer() -> None:
        for _ in range(case.steps):
            torch.compiler.cudagraph_mark_step_begin()
            forward()
        wait()

    def train() -> None:
        for _ in range(case.steps):
            torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=True)
            forward().backward()
            optimizer.step()
        wait()

    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    model.train(case.task == "train")
    return Program(
        train if case.task == "train" else infer,
        torch.cuda.max_memory_allocated if on_gpu else lambda: None,
        torch.cuda.get_device_name() if on_gpu else "cpu",
    )


SIDES: dict[str, Callable[[Case, int], Program]] = {"jaxseg": jaxseg_side, "torch": torch_side}


def missing(network: str) -> list[str]:
    """Which modules a network's twin lacks here."""
    module = "torchvision" if network.startswith("fcn") else "segmentation_models_pytorch"
    return [name for name in ("torch", module) if importlib.util.find_spec(name) is None]


def turn(side: str, case: Case, batch: int) -> Callable[[], Any]:
    """What `turns.take_turns` times."""
    return SIDES[side](case, batch).run


def _batch(case: Case, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images `[N, H, W, 3]` and labels."""
    rng = np.random.default_rng(0)
    shape = (batch, case.size, case.size)
    return (
        rng.standard_normal((*shape, 3), np.float32),
        rng.integers(0, CLASSES, shape).astype(np.uint8),
    )
