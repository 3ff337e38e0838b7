"""Set before JAX is imported, for tests and doctests alike: fake devices, strict modes, no network."""

import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# XLA compiles most and computes little here: unoptimised, and with its older emitters (which JAX 0.12 has no more), twice as fast.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
# What one process of a test run compiled, the others load.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("PYTEST_JAX_CACHE") or tempfile.mkdtemp()
os.environ["PYTEST_JAX_CACHE"] = os.environ["JAX_COMPILATION_CACHE_DIR"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_configure(config):
    """Property tests draw the same cases every time, and others where `--hypothesis-seed` asks for them."""
    drawn_anew = config.getoption("--hypothesis-seed", None) is not None
    settings.register_profile(
        "jaxseg", deadline=None, derandomize=not drawn_anew, database=None, print_blob=True
    )
    settings.load_profile("jaxseg")


def pytest_xdist_auto_num_workers(config):
    """Runs one named file in this process, and more in one process for each core, eight at most."""
    files = [path for path in config.args if path.partition("::")[0].endswith(".py")]
    if len(files) == len(config.args) == 1:
        return 0
    return min(os.cpu_count() or 1, 8)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs():
    """Forgotten after each file: programs of one are of no use to the next, and add up to gigabytes."""
    yield
    jax.clear_caches()


def pytest_unconfigure(config):
    """Removes the compiled programs when the process that started the others ends."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
