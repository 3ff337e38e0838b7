"""The two sides of `gpu.py`: a network of jaxseg and the same network in PyTorch, in the fastest form of each.

Both hold images `[N, H, W, 3]` in float32 and labels on the device, compute in the type of the case with float32 parameters,
and run several steps per synchronization, like training. jax and torch are imported where a side is built: each side has a
process of its own, and JAX's limit of the GPU's memory must be set before the import.
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
    """One measurement.

    Attributes:
        network: A name of `NETWORKS`.
        task: `"train"`, a step of AdamW on the cross-entropy, or `"infer"`, logits only.
        size: Height and width of the images.
        dtype: `"bfloat16"` or `"float32"`.
        mode: Of `torch.compile`; `"eager"` does not compile.
        steps: Steps per synchronization.
        memory: Fraction of the GPU's memory per side.
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
    """A side that is ready to run.

    Attributes:
        run: Runs the case's steps and waits for them.
        peak: Returns the peak memory of the device in bytes, or None where it is not known.
        device: Its name.
        flops: Floating-point operations per step, NaN where they are not counted.
        text: The compiled program, if it is available as text.
    """

    run: Callable[[], Any]
    peak: Callable[[], int | None]
    device: str
    flops: float = math.nan
    text: str = ""


def jaxseg_side(case: Case, batch: int) -> Program:
    """Builds the side of jaxseg, the program of `Parallel.compile`."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(case.memory))
    import jax
    import jax.numpy as jnp

    import jaxseg
    from jaxseg import train
    from jaxseg.parallel import Parallel

    name, encoder, options = NETWORKS[case.network]
    model = jaxseg.create(
        name,
        encoder=encoder,
        num_classes=CLASSES,
        encoder_options=options,
        dtype=jnp.dtype(case.dtype),
    )
    device = jax.devices()[0]
    parallel = Parallel("jit", [device])
    images, labels = _batch(case, batch)
    shown = parallel.shard({"image": images, "label": labels})
    variables = train.init(model, jax.random.key(0))
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

    # Counted in the program for the CPU: a GPU's calls cuDNN, whose work XLA does not count.
    host = Parallel("jit", jax.devices("cpu")[:1])
    counted = host.lower(step, state, shown, *key, donate=donate)
    flops = (counted.cost_analysis() or {}).get("flops", math.nan)
    return Program(run, peak, device.device_kind, flops, compiled.as_text())


def torch_side(case: Case, batch: int) -> Program:
    """Builds the side of PyTorch: channels last, autocast, fused AdamW, network and loss in one `torch.compile`."""
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
    """Returns the names of the modules that the peer of a network needs and that are not installed."""
    module = "torchvision" if network.startswith("fcn") else "segmentation_models_pytorch"
    return [name for name in ("torch", module) if importlib.util.find_spec(name) is None]


def make_run(side: str, case: Case, batch: int) -> Callable[[], Any]:
    """Returns the function that `interleave.time_alternately` times."""
    return SIDES[side](case, batch).run


def _batch(case: Case, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images `[N, H, W, 3]` and labels `[N, H, W]`."""
    rng = np.random.default_rng(0)
    shape = (batch, case.size, case.size)
    return (
        rng.standard_normal((*shape, 3), np.float32),
        rng.integers(0, CLASSES, shape).astype(np.uint8),
    )
