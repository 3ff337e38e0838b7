"""The best and the last checkpoint of a run, each whole or absent: Orbax writes aside, then renames.

`last` holds the whole training state, so that a run goes on exactly where it stopped; `best` holds the variables of
the epoch with the best validation mIoU, which is what evaluation and prediction read. A new checkpoint is complete
before the one that it replaces is removed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import serialization, traverse_util
from orbax.checkpoint import checkpoint_managers

from jaxseg.errors import InputError


class Checkpoint:
    """One slot on disk for a tree of arrays and a few plain values; saving replaces what it holds.

    Args:
        folder: Where the slot lives; created by the first `save`.

    >>> import tempfile, jax.numpy as jnp
    >>> slot = Checkpoint(tempfile.mkdtemp())
    >>> slot.save(3, {"kernel": jnp.ones((2, 2))}, {"mean_iou": 0.5})
    >>> tree, facts = slot.restore({"kernel": jnp.zeros((2, 2))})
    >>> slot.step, float(tree["kernel"].sum()), facts
    (3, 4.0, {'mean_iou': 0.5})
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder).absolute()

    @property
    def step(self) -> int | None:
        """The step of the checkpoint that the slot holds, None when it is empty."""
        if not self._folder.is_dir():
            return None
        with self._manager() as manager:
            return manager.latest_step()

    def save(self, step: int, tree: Any, facts: Mapping[str, Any]) -> None:
        """Writes a checkpoint, then removes the one before it; a step that is already held is left as it is.

        Args:
            step: The step that the tree belongs to.
            tree: A pytree of arrays.
            facts: Plain values that JSON can hold.

        Raises:
            InputError: It could not be written, and the checkpoint before it is still whole; or the slot
                holds one of a later step.
        """
        held = self.step
        if held == step:
            return  # a resumed run comes by a step again, to the same arrays
        if held is not None and held > step:
            raise InputError(f"{self._folder} holds step {held}, later than step {step}")
        arguments = ocp.args.Composite(
            tree=ocp.args.StandardSave(_nest(_leaves(tree))), facts=ocp.args.JsonSave(dict(facts))
        )
        try:
            with self._manager(create=True) as manager:
                manager.save(step, args=arguments, force=True)
        except Exception as error:  # what a full disk raises depends on the layer that meets it
            kept = "there was none before" if held is None else f"that of step {held} is intact"
            raise InputError(
                f"cannot save the checkpoint of step {step} in {self._folder}; {kept}: {error}"
            ) from error

    def restore(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """The tree and the facts that the slot holds.

        Args:
            template: A pytree of the same structure, of arrays or `jax.ShapeDtypeStruct` with a sharding.

        Returns:
            The tree, in the template's structure and on its devices, and the facts.

        Raises:
            InputError: The slot is empty or damaged, or its tree differs from the template: each leaf is named.
        """
        step = self.step
        if step is None:
            raise InputError(f"no checkpoint in {self._folder}")
        wanted = {path: _struct(leaf) for path, leaf in _leaves(template).items()}
        with self._manager() as manager:
            try:
                stored = traverse_util.flatten_dict(
                    manager.item_metadata(step)["tree"].tree, sep="/"
                )
            except Exception as error:
                raise InputError(f"the checkpoint in {self._folder} is damaged: {error}") from error
            _compare(wanted, stored, self._folder)
            arguments = ocp.args.Composite(
                tree=ocp.args.StandardRestore(_nest(wanted)), facts=ocp.args.JsonRestore()
            )
            try:
                restored = manager.restore(step, args=arguments)
            except Exception as error:
                raise InputError(f"the checkpoint in {self._folder} is damaged: {error}") from error
        arrays = traverse_util.flatten_dict(restored["tree"], sep="/")
        return _fill(template, arrays), dict(restored["facts"])

    def _manager(self, create: bool = False) -> ocp.CheckpointManager:
        # Opened for each use: a slot holds no open files, and writing is rare beside training.
        options = ocp.CheckpointManagerOptions(
            create=create,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=create,
            preservation_policy=checkpoint_managers.LatestN(1),
        )
        handlers = {"tree": ocp.StandardCheckpointHandler(), "facts": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(
        jax.local_devices()[0]
    )
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _leaves(tree: Any) -> dict[str, Any]:
    """Every array of a pytree by its path: named tuples and dataclasses become readable names."""
    state = serialization.to_state_dict({"": tree})[""]
    flat = traverse_util.flatten_dict({"": state}, sep="/")
    return {path.lstrip("/"): leaf for path, leaf in flat.items() if leaf is not None}


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    return traverse_util.unflatten_dict(flat, sep="/")


def _fill(template: Any, arrays: dict[str, Any]) -> Any:
    state = serialization.to_state_dict({"": template})
    flat = traverse_util.flatten_dict(state, keep_empty_nodes=True, sep="/")
    filled = {path: arrays.get(path.lstrip("/"), leaf) for path, leaf in flat.items()}
    nested = traverse_util.unflatten_dict(filled, sep="/")
    return serialization.from_state_dict({"": template}, nested)[""]


def _compare(wanted: dict[str, Any], stored: dict[str, Any], folder: Path) -> None:
    """Names every leaf in which a checkpoint differs from what is to be filled."""
    lines = [f"only in the checkpoint: {path}" for path in sorted(stored.keys() - wanted.keys())]
    lines += [
        f"missing in the checkpoint: {path}" for path in sorted(wanted.keys() - stored.keys())
    ]
    for path in sorted(wanted.keys() & stored.keys()):
        old, new = tuple(stored[path].shape), tuple(wanted[path].shape)
        if old != new:
            lines.append(f"{path}: {old} in the checkpoint, {new} in the model")
    if lines:
        shown = lines[:20] + [f"... and {len(lines) - 20} more"] * (len(lines) > 20)
        raise InputError(
            f"the checkpoint in {folder} is of another architecture:\n  " + "\n  ".join(shown)
        )
