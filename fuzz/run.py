"""Fuzzes one reader of external bytes with atheris: `python fuzz/run.py TARGET [--seconds 60]`.

Needs `pip install 'jaxseg[fuzz]'`. It starts from the seeds in `fuzz/corpus/TARGET`, which it does not change; bytes that
break the reader are written to `crash-...` in the working folder.
"""

import argparse
import sys
import tempfile
import warnings

import atheris

warnings.simplefilter("ignore")  # PIL warns about damage that it repairs

with atheris.instrument_imports(include=["jaxseg", "PIL", "safetensors"]):
    import targets


def main() -> None:
    """Fuzzes one target for a number of seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    options = [
        f"-max_total_time={arguments.seconds}",
        "-rss_limit_mb=4096",
        "-timeout=30",
        "-verbosity=1",
    ]
    with tempfile.TemporaryDirectory() as folder:
        corpora = [folder, str(targets.CORPUS / arguments.target)]
        atheris.Setup([sys.argv[0], *options, *corpora], targets.TARGETS[arguments.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
