"""Verified checkpoints of a run, each complete or absent.

A run folder has two: `last` contains the complete training state, from which a run continues exactly where it stopped; `best`
contains the variables of the epoch with the best validation score, which evaluation and prediction read. Orbax writes the
arrays of a checkpoint under another name; they are read back and compared, every file gets a checksum, and only then the
folder gets its name and older checkpoints are removed. Orbax is imported when it is needed, because its import is a tenth of
the time to the first step of a new run.
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
from jaxseg.parallel.processes import is_first_process, on_first_process
from jaxseg.runs import atomic_folder

_log = logging.getLogger(__name__)


class Checkpoint:
    """A folder that stores the newest versions of a tree of arrays with a few plain values.

    With several processes all of them save and restore together, in a folder that all of them see.

    Attributes:
        steps: The steps of the stored versions, newest first.
        step: The step of the newest version; None without one.

    Args:
        folder: The folder. The first `save` creates it in a parent that exists.
        keep: The number of versions to keep: if the newest one is damaged, the one before it is restored.

    >>> import tempfile, jax.numpy as jnp
    >>> checkpoint = Checkpoint(tempfile.mkdtemp())
    >>> checkpoint.save(3, {"kernel": jnp.ones((2, 2))}, {"mean_iou": 0.5})
    >>> tree, metadata = checkpoint.restore({"kernel": jnp.zeros((2, 2))})
    >>> checkpoint.step, float(tree["kernel"].sum()), metadata
    (3, 4.0, {'mean_iou': 0.5})
    """

    def __init__(self, folder: str | Path, *, keep: int = 1):
        self._folder = Path(folder).absolute()
        self._keep = keep

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the stored versions, newest first."""
        if not self._folder.is_dir():
            return ()
        names = [path.name for path in self._folder.iterdir()]
        return tuple(sorted((int(name) for name in names if name.isdecimal()), reverse=True))

    @property
    def step(self) -> int | None:
        """The step of the newest version; None without one."""
        return self.steps[0] if self.steps else None

    def save(self, step: int, tree: Any, metadata: Mapping[str, Any]) -> None:
        """Writes and verifies a version, then removes the oldest ones.

        A version of this step that is stored and intact stays as it is. Versions of later steps are removed, because a run
        that has fallen back to an earlier step will save them again.

        Args:
            step: The step of the tree.
            tree: A pytree of arrays.
            metadata: Values that JSON can represent.

        Raises:
            InputError: The version cannot be written. Earlier versions are intact.
        """
        path = self._folder / str(step)
        if on_first_process(lambda: step in self.steps and atomic_folder.find_damage(path) is None):
            return  # a resumed run reaches a step again, with the same arrays
        unfinished, leaves = atomic_folder.unfinished(path), _leaves(tree)
        try:
            on_first_process(lambda: self._prepare(unfinished))
            _write(unfinished / "tree", leaves)
            on_first_process(lambda: self._finish(step, metadata))
        except Exception as error:  # a full disk raises different errors in different layers
            before = self.step
            intact = (
                "there was none before" if before is None else f"that of step {before} is intact"
            )
            if is_first_process() and self._folder.is_dir():
                atomic_folder.remove_leftovers(self._folder)  # makes room on the disk
            raise InputError(
                f"cannot save the checkpoint of step {step} in {self._folder}; {intact}: {error}"
            ) from error

    def restore(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """Reads the newest intact version; damaged ones are logged as warnings.

        Args:
            template: A pytree of the same structure, of arrays or `jax.ShapeDtypeStruct` with a sharding.

        Returns:
            The tree, with the structure and the shardings of the template, and the metadata.

        Raises:
            InputError: There is no intact version, or its tree differs from the template; the message names every
                differing leaf.
        """
        damaged: dict[int, str] = {}
        # Listed again each time: a run in progress may have replaced the version that was read.
        while steps := on_first_process(
            lambda: [step for step in self.steps if step not in damaged]
        ):
            step = steps[0]
            path = self._folder / str(step)
            damage = on_first_process(lambda path=path: atomic_folder.find_damage(path))
            if damage is None:
                return self._read(path, template)
            damaged[step] = damage
            _log.warning(
                "the checkpoint of step %d in %s is damaged: %s", step, self._folder, damage
            )
            if len(steps) > 1:
                _log.warning("falling back to that of step %d", steps[1])
        if not damaged:
            raise InputError(f"no checkpoint in {self._folder}")
        listed = "; ".join(f"step {step}: {damage}" for step, damage in damaged.items())
        raise InputError(
            f"the checkpoint in {self._folder} is damaged and there is no other: {listed}. Remove it to start over, or "
            "put a copy in its place"
        )

    def _prepare(self, unfinished: Path) -> None:
        self._folder.mkdir(exist_ok=True)
        atomic_folder.remove_leftovers(self._folder)
        unfinished.mkdir()

    def _finish(self, step: int, metadata: Mapping[str, Any]) -> None:
        path = self._folder / str(step)
        unfinished = atomic_folder.unfinished(path)
        (unfinished / "metadata.json").write_text(json.dumps(dict(metadata)) + "\n")
        atomic_folder.seal(unfinished)
        atomic_folder.publish(path)
        kept = [stored for stored in self.steps if stored <= step][: self._keep]
        for stored in self.steps:
            if stored not in kept:
                atomic_folder.remove(self._folder / str(stored))

    def _read(self, path: Path, template: Any) -> tuple[Any, dict[str, Any]]:
        import orbax.checkpoint as ocp

        wanted = {name: _struct(leaf) for name, leaf in _leaves(template).items()}
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                stored_metadata: Any = reader.metadata(path / "tree")
                stored = traverse_util.flatten_dict(stored_metadata.item_metadata.tree, sep="/")
                _compare(wanted, stored, self._folder)
                arguments = ocp.args.StandardRestore(_nest(wanted))
                restored = reader.restore(path / "tree", args=arguments)
            metadata = json.loads((path / "metadata.json").read_text())
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the checkpoint in {path} cannot be read: {error}") from error
        return _fill(template, traverse_util.flatten_dict(restored, sep="/")), metadata


def _write(path: Path, leaves: dict[str, Any]) -> None:
    """Writes arrays, reads them back, and raises an `OSError` if a bit differs."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
        writer.save(path, args=ocp.args.StandardSave(_nest(leaves)))
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in leaves}
    arguments = ocp.args.PyTreeRestore(_nest(leaves), restore_args=_nest(as_numpy))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = traverse_util.flatten_dict(reader.restore(path, args=arguments), sep="/")
    for name, leaf in leaves.items():
        shards = leaf.addressable_shards if isinstance(leaf, jax.Array) else ()
        parts = [(shard.index, shard.data) for shard in shards] or [(..., leaf)]
        for index, data in parts:
            if np.asarray(data).tobytes() != np.asarray(found[name])[index].tobytes():
                raise OSError(f"{name} is not what was written")


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(
        jax.local_devices()[0]
    )
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _leaves(tree: Any) -> dict[str, Any]:
    """Returns every array of a pytree by its path; named tuples and dataclasses have readable paths."""
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
    """Raises an `InputError` that names every leaf in which a checkpoint differs from the template."""
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
