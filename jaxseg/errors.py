"""The one exception for what a user gave and cannot be used: the command line turns it into exit code 2."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that was given from outside (a name, a file, a label, a checkpoint) cannot be used.

    The message names the value, the place and the way out.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not known, with its close matches.

    Args:
        kind: What the name stands for, such as `"encoder"`.
        name: The name as it was given.
        known: Every name that would have worked.

    >>> str(unknown("encoder", "resnet43", ["resnet34", "mit_b0"]))
    "unknown encoder 'resnet43'; did you mean 'resnet34'? Known: mit_b0, resnet34"
    """
    known = sorted(known)
    spelled = {each.lower(): each for each in known}
    close = [spelled[each] for each in difflib.get_close_matches(name.lower(), spelled, n=3)]
    guess = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    return InputError(f"unknown {kind} {name!r}{guess} Known: {', '.join(known)}")
