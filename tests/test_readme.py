"""The README's Python examples run and print what they say."""

import doctest
import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parent.parent / "README.md"


def test_examples_print_what_they_say() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
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


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (README.parent / link).exists()]
    assert local
    assert not missing


@pytest.mark.parametrize("word", ["pip install", "python -m mrsim", "python -m pytest"])
def test_says_how_to_start(word: str) -> None:
    assert word in README.read_text()
