"""`jaxseg report RUN`: writes a run's report.html again, from its log and its best checkpoint."""

from collections.abc import Sequence

from jaxseg import runs
from jaxseg.cli import arguments


def main(argv: Sequence[str]) -> int:
    """Writes the report of a run."""
    parser = arguments.parser("report", "Write a run's report.html again.")
    parser.add_argument("run", type=arguments.path, help="a run folder")
    print(runs.report(parser.parse_args(argv).run))
    return 0
