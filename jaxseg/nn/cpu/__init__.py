"""Forms of operations that XLA compiles to faster programs on a CPU, and `disabled`, which turns them off."""

from jaxseg.nn.cpu.platform import disabled

__all__ = ["disabled"]
