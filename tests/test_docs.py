"""Documentation: every public function has an example, every link leads somewhere."""

import doctest
import inspect
import re
from pathlib import Path

import public
import pytest

ROOT = Path(__file__).parent.parent
FUNCTIONS = public.functions()


def test_every_public_function_has_an_example_that_calls_it() -> None:
    """CI plays them: ``pytest --doctest-modules --pyargs mrsim``."""
    lacking = set()
    for function in FUNCTIONS:
        lines = doctest.DocTestParser().get_examples(function.f.__doc__ or "")
        code = [x.source for x in lines if not x.source.startswith(("from", "import"))]
        name = function.name.rpartition(".")[2]
        if not re.search(rf"\b{name}\b", "".join(code)):
            lacking.add(function.name)
    assert not lacking


def test_every_public_function_says_what_it_takes() -> None:
    for function in FUNCTIONS:
        doc = function.f.__doc__ or ""
        code = inspect.unwrap(function.f).__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if names and "\n" in doc:
            assert not [n for n in names if not re.search(rf"\b{n}\b", doc)], doc


def _anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to headings."""
    found: set[str] = set()
    inside = False
    for line in text.splitlines():
        inside ^= line.startswith("```")
        heading = re.match(r"#{1,6} +(.*)", line)
        if heading and not inside:
            words = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            number = sum(a == words or a.startswith(f"{words}-") for a in found)
            found.add(words if words not in found else f"{words}-{number}")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda p: p.name)
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    links += re.findall(r'(?:src|href)="([^"]+)', text)
    for link in links:
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        there = path.parent / target if target else path
        assert there.exists(), link
        if anchor and there.suffix == ".md":
            assert anchor in _anchors(there.read_text(encoding="utf-8")), link


def test_names_in_docstrings_exist() -> None:
    """What stands as `mrsim.x.y` between backticks can be reached under that name."""
    reached = {f"mrsim.{n}".rstrip(".") for n in public.modules()}
    for prefix, module in public.modules().items():
        reached |= {f"mrsim.{prefix}.{n}".replace("..", ".") for n in vars(module)}
    for module in public.modules().values():
        docs = [module.__doc__ or ""]
        docs += [value.__doc__ or "" for _, value in public.members(module)]
        for name in re.findall(r"`(mrsim\.[\w.]+?)\.?`", "\n".join(docs)):
            if (ROOT / name.replace(".", "/")).with_suffix(".py").exists():
                continue
            assert name in reached or name.rpartition(".")[0] in reached, name
