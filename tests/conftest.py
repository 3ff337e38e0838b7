"""What tests of several folders share."""

import jax
import pytest


@pytest.fixture
def compiled(caplog):
    """How often a program was compiled since the test began, by its name."""
    jax.config.update("jax_log_compiles", True)
    yield lambda name: sum(f"XLA compilation of jit({name})" in text for text in caplog.messages)
    jax.config.update("jax_log_compiles", False)
