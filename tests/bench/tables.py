"""README's figures, written from the stored results: `python tests/bench/tables.py`.

Between ``<!-- NAME.md -->`` and ``<!-- end -->`` README holds the file of that name in
`templates`, a Python f-string in which each file of `results` is a dict: every figure
is one that a command stored, and a test asserts that README agrees. A block whose
results are missing is empty.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrsim.demo.report import table

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
_BLOCK = re.compile(r"(<!-- (\w+\.md) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def results() -> dict[str, Any]:
    """Return the stored reports by the name of their file."""
    paths = sorted((HERE / "results").glob("*.json"))
    return {path.stem: json.loads(path.read_text("utf-8")) for path in paths}


def filled(template: str, found: Mapping[str, Any]) -> str:
    """Return a template with the figures of reports, or nothing if one is missing."""
    try:
        return eval(f'f"""{template}"""', {"table": table, **found})
    except NameError:
        return ""


def updated(readme: str, found: Mapping[str, Any]) -> str:
    """Return README with its figures made anew from some reports."""

    def block(at: re.Match[str]) -> str:
        return at[1] + filled((HERE / "templates" / at[2]).read_text("utf-8"), found)

    return _BLOCK.sub(block, readme)


if __name__ == "__main__":
    README.write_text(updated(README.read_text("utf-8"), results()), "utf-8")
