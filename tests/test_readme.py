"""The README's example runs as it stands, and is as short as it claims to be."""

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example():
    code = re.search(r"## From Python\n+```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    lines = [line for line in code.group(1).splitlines() if line.strip()]
    assert len(lines) < 25
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.group(1), str(README), "exec"), {"__name__": "readme"})
    loss, miou = map(float, printed.getvalue().split())
    assert 0 < loss < 3
    assert 0 < miou < 1
