"""Parallelism: one pure step on many devices and processes, and what it costs there."""

from jaxseg.parallel.cost import cost_of, estimate_step_time
from jaxseg.parallel.sharding import ShardingRule, by_prefix, fully_sharded, replicated
from jaxseg.parallel.strategy import Parallel

__all__ = [
    "Parallel",
    "ShardingRule",
    "by_prefix",
    "cost_of",
    "estimate_step_time",
    "fully_sharded",
    "replicated",
]
