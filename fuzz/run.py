"""`python fuzz/run.py TARGET [--seconds 60]`: lets atheris look for bytes that one reader does not stand.

Needs `pip install 'jaxseg[fuzz]'`. It begins with `fuzz/corpus/TARGET` and leaves that as it is; what breaks the reader
is written to `crash-...` in the working folder.
"""

import argparse
import sys
import tempfile
import warnings

import atheris

warnings.simplefilter("ignore")  # PIL's, of what it mends itself

with atheris.instrument_imports(include=["jaxseg", "PIL", "safetensors"]):
    import targets


def main() -> None:
    """Fuzzes one target for a while."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    options = [
        f"-max_total_time={given.seconds}",
        "-rss_limit_mb=4096",
        "-timeout=30",
        "-verbosity=1",
    ]
    with tempfile.TemporaryDirectory() as found:
        corpora = [found, str(targets.CORPUS / given.target)]
        atheris.Setup([sys.argv[0], *options, *corpora], targets.TARGETS[given.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
