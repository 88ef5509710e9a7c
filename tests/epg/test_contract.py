"""What the import contract of sequences names."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_sequence_stands_in_the_contract() -> None:
    """The linter cannot tell that one is missing: the contract is not exhaustive."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    named = next(str(c["layers"]) for c in contracts if "mrsim.epg" in c["containers"])
    files = (ROOT / "mrsim" / "epg").glob("_[a-z]*.py")
    assert {p.stem for p in files if p.stem not in named} == set()
