"""Preparation of TFDS data sets, without TensorFlow by jaxseg's builders."""

import difflib
import importlib
import importlib.util
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from jaxseg.errors import InputError

BUILDERS = {"camvid": "jaxseg.data.sources.tfds_camvid"}
"""The modules of jaxseg's builders by the names of their data sets; they need no TensorFlow to prepare."""


def prepared(
    name: str, data_dir: str | Path | None = None, manual_dir: str | Path | None = None
) -> tfds.core.DatasetBuilder:
    """Returns the builder of a prepared TFDS data set, which is prepared first if necessary.

    Args:
        name: `name`, `name/config` or `name/config:version`.
        data_dir: The folder of prepared data sets; TFDS's default if None.
        manual_dir: The folder of files that a builder does not download; `downloads/manual` in `data_dir` by default.

    Raises:
        InputError: The name is unknown, or the data set cannot be prepared; the message holds the command that prepares it.
    """
    directory = data_dir or constants.DATA_DIR
    plain = plain_name(name)
    if plain in BUILDERS:
        importlib.import_module(BUILDERS[plain])  # which registers the builder with TFDS
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not _is_prepared(builder):
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        known = {*tfds.list_builders(with_community_datasets=False), *BUILDERS}
        close = difflib.get_close_matches(plain, known, n=3)
        guess = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        raise InputError(
            f"unknown TFDS data set {name!r}{guess} It is neither prepared in {directory} nor one of"
            f" the {len(known)} that TFDS and jaxseg can prepare"
        ) from None
    except Exception as error:  # of any type, if its files are damaged
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"TFDS data set {name!r} in {directory}: {first}") from error
    if _is_prepared(builder):
        return builder
    if plain not in BUILDERS and importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"TFDS data set {name!r} is not prepared in {directory}, and preparing it needs TensorFlow:"
            f" pip install 'jaxseg[tfds-prepare]', then {command(name, directory)}"
        )
    manual = Path(manual_dir or Path(directory, "downloads", "manual")).expanduser()
    if plain in BUILDERS and not manual.is_dir():
        raise InputError(
            f"TFDS data set {name!r} is prepared from files in manual_dir, but {manual} is not a"
            f" folder. {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=manual)
        )
    except OSError as error:
        raise InputError(
            f"TFDS data set {name!r} cannot be written to {directory}: {error}"
        ) from error
    return builder


def command(name: str, data_dir: str | Path) -> str:
    """Returns the shell command that prepares a data set for random access."""
    return f"`tfds build {name} --file_format=array_record --data_dir={data_dir}`"


def plain_name(name: str) -> str:
    """Returns the name without config and version.

    >>> plain_name("scene_parse150/full:1.0.0")
    'scene_parse150'
    """
    return name.split("/")[0].split(":")[0]


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    return Path(
        builder.data_dir, "dataset_info.json"
    ).is_file()  # TFDS's `is_prepared` warns if it is not
