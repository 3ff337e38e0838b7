"""The best and the last checkpoints of a run, each whole or absent.

`last` holds the whole training state, so that a run goes on exactly where it stopped; `best` holds the variables of
the epoch with the best validation mIoU, which is what evaluation and prediction read. Orbax writes the arrays of a
checkpoint aside; they are read back and compared, every file gets a checksum, and only then the folder gets its name
and older ones go. It is imported when it is needed: that takes a tenth of the time to a new run's first step.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization, traverse_util

from jaxseg.errors import InputError
from jaxseg.train import whole
from jaxseg.train.processes import is_first, on_first

_log = logging.getLogger(__name__)


class Checkpoint:
    """One slot on disk for a tree of arrays and a few plain values; saving replaces the oldest that it holds.

    Where there are several processes all of them save and restore together, in a folder that all of them see.

    Args:
        folder: Where the slot lives; made by the first `save` in a folder that exists.
        keep: How many checkpoints it holds: a newer one that is damaged leaves the one before it to go on from.

    >>> import tempfile, jax.numpy as jnp
    >>> slot = Checkpoint(tempfile.mkdtemp())
    >>> slot.save(3, {"kernel": jnp.ones((2, 2))}, {"mean_iou": 0.5})
    >>> tree, facts = slot.restore({"kernel": jnp.zeros((2, 2))})
    >>> slot.step, float(tree["kernel"].sum()), facts
    (3, 4.0, {'mean_iou': 0.5})
    """

    def __init__(self, folder: str | Path, *, keep: int = 1):
        self._folder = Path(folder).absolute()
        self._keep = keep

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the checkpoints that the slot holds, newest first."""
        if not self._folder.is_dir():
            return ()
        names = [path.name for path in self._folder.iterdir()]
        return tuple(sorted((int(name) for name in names if name.isdecimal()), reverse=True))

    @property
    def step(self) -> int | None:
        """The step of the newest checkpoint that the slot holds, None when it is empty."""
        return self.steps[0] if self.steps else None

    def save(self, step: int, tree: Any, facts: Mapping[str, Any]) -> None:
        """Writes a checkpoint, verifies it, then removes the oldest; a step that is held whole is left as it is.

        Checkpoints of later steps go as well: a run that had to fall back comes by them again.

        Args:
            step: The step that the tree belongs to.
            tree: A pytree of arrays.
            facts: Plain values that JSON can hold.

        Raises:
            InputError: It could not be written, and the checkpoints before it are still there.
        """
        place = self._folder / str(step)
        if on_first(lambda: step in self.steps and whole.fault(place) is None):
            return  # a resumed run comes by a step again, to the same arrays
        aside, leaves = whole.unfinished(place), _leaves(tree)
        try:
            on_first(lambda: self._prepare(aside))
            _write(aside / "tree", leaves)
            on_first(lambda: self._finish(step, facts))
        except Exception as error:  # what a full disk raises depends on the layer that meets it
            held = self.step
            kept = "there was none before" if held is None else f"that of step {held} is intact"
            if is_first() and self._folder.is_dir():
                whole.clear(self._folder)  # room for whoever mends it
            raise InputError(
                f"cannot save the checkpoint of step {step} in {self._folder}; {kept}: {error}"
            ) from error

    def restore(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """The tree and the facts of the newest checkpoint that is whole; one that is not is named in a warning.

        Args:
            template: A pytree of the same structure, of arrays or `jax.ShapeDtypeStruct` with a sharding.

        Returns:
            The tree, in the template's structure and on its devices, and the facts.

        Raises:
            InputError: The slot is empty or all that it holds is damaged, or its tree differs from the template: each
                leaf is named.
        """
        damaged: dict[int, str] = {}
        # Listed anew each time: a run that is still going may have replaced what was just read.
        while left := on_first(lambda: [step for step in self.steps if step not in damaged]):
            step = left[0]
            place = self._folder / str(step)
            fault = on_first(lambda place=place: whole.fault(place))
            if fault is None:
                return self._read(place, template)
            damaged[step] = fault
            _log.warning(
                "the checkpoint of step %d in %s is damaged: %s", step, self._folder, fault
            )
            if len(left) > 1:
                _log.warning("falling back to that of step %d", left[1])
        if not damaged:
            raise InputError(f"no checkpoint in {self._folder}")
        listed = "; ".join(f"step {step}: {fault}" for step, fault in damaged.items())
        raise InputError(
            f"the checkpoint in {self._folder} is damaged and there is no other: {listed}. Remove it to start over, or "
            "put a copy in its place"
        )

    def _prepare(self, aside: Path) -> None:
        self._folder.mkdir(exist_ok=True)
        whole.clear(self._folder)
        aside.mkdir()

    def _finish(self, step: int, facts: Mapping[str, Any]) -> None:
        place = self._folder / str(step)
        aside = whole.unfinished(place)
        (aside / "facts.json").write_text(json.dumps(dict(facts)) + "\n")
        whole.seal(aside)
        whole.publish(place)
        kept = [held for held in self.steps if held <= step][: self._keep]
        for held in self.steps:
            if held not in kept:
                whole.remove(self._folder / str(held))

    def _read(self, place: Path, template: Any) -> tuple[Any, dict[str, Any]]:
        import orbax.checkpoint as ocp

        wanted = {path: _struct(leaf) for path, leaf in _leaves(template).items()}
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                metadata: Any = reader.metadata(place / "tree")
                stored = traverse_util.flatten_dict(metadata.item_metadata.tree, sep="/")
                _compare(wanted, stored, self._folder)
                arguments = ocp.args.StandardRestore(_nest(wanted))
                restored = reader.restore(place / "tree", args=arguments)
            facts = json.loads((place / "facts.json").read_text())
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the checkpoint in {place} cannot be read: {error}") from error
        return _fill(template, traverse_util.flatten_dict(restored, sep="/")), facts


def _write(place: Path, leaves: dict[str, Any]) -> None:
    """Writes arrays and reads them back; what differs by a single bit is an error."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
        writer.save(place, args=ocp.args.StandardSave(_nest(leaves)))
    host = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in leaves}
    arguments = ocp.args.PyTreeRestore(_nest(leaves), restore_args=_nest(host))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = traverse_util.flatten_dict(reader.restore(place, args=arguments), sep="/")
    for path, leaf in leaves.items():
        shards = leaf.addressable_shards if isinstance(leaf, jax.Array) else ()
        parts = [(shard.index, shard.data) for shard in shards] or [(..., leaf)]
        for index, data in parts:
            if np.asarray(data).tobytes() != np.asarray(found[path])[index].tobytes():
                raise OSError(f"{path} is not what was written")


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
