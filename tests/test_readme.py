"""The README's examples run and print what they say; its figures are stored ones."""

import doctest
import json
import re
from pathlib import Path

import pytest
import torch
from bench import tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = tables.results()


def test_examples_print_what_they_say() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    text = "\n".join(blocks)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        example = doctest.DocTestParser().get_doctest(text, {}, "README", None, 0)
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        result = runner.run(example)
    finally:
        torch.set_default_dtype(before)
    assert result.attempted > 10
    assert result.failed == 0


@pytest.mark.parametrize("word", ["pip install", "python -m mrsim", "python -m pytest"])
def test_says_how_to_start(word: str) -> None:
    assert word in README


def test_figures_are_those_that_the_benchmarks_stored() -> None:
    """`python tests/bench/tables.py` writes them anew."""
    assert tables.updated(README, RESULTS) == README


@pytest.mark.parametrize("name", RESULTS)
def test_stored_results_tell_their_origin(name: str) -> None:
    command = RESULTS[name]["command"]
    for script in re.findall(r"tests/bench/\w+\.py", command):
        assert (ROOT / script).is_file()
    assert not re.search(r'[\s"]/[a-z]', json.dumps(RESULTS[name])), "an absolute path"
    assert "date" in json.dumps(RESULTS[name])


def test_tables_follow_the_stored_figures() -> None:
    """Another figure makes another text; without its file a block is empty."""
    for template in sorted((tables.HERE / "templates").glob("*.md")):
        text = template.read_text(encoding="utf-8")
        assert f"<!-- {template.name} -->" in README
        assert tables.filled(text, {}) == ""
    found = json.loads(json.dumps(RESULTS))
    found["bench_engine"]["ratios"]["spins/s"] = 12345.0
    assert "12,345 spins/s" in tables.updated(README, found)


def test_bounds_of_the_comparisons_are_those_of_the_tests() -> None:
    part = README.split("\n## Checked against\n")[1].split("\n## ")[0]
    rows = [line.split("|")[3:5] for line in part.splitlines() if line[:2] == "| "][1:]
    assert len(rows) > 20
    four = README.split("\n## Four simulators")[1].split("\n## ")[0]
    of = {line.split(" | ")[0]: line.split("|")[2:6] for line in four.splitlines()}
    rows += zip(of["| agrees within, in CI"], of["| tests"], strict=True)
    for within, links in rows:
        tests = [ROOT / path for path in re.findall(r"\]\(([^)]+)\)", links)]
        text = "".join(path.read_text(encoding="utf-8") for path in tests)
        for bound in re.findall(r"\d+(?:\.\d+)?e-\d+|0\.\d+", within):
            assert bound in text, (within, links)
