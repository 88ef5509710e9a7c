"""What `mrsim.citation` says."""

import importlib
import re

import pytest

from mrsim._citation import _PAPERS, citation

PAPERS = {paper for papers in _PAPERS.values() for paper in papers}


@pytest.mark.parametrize("name", _PAPERS)
def test_every_part_has_its_papers(name: str) -> None:
    text = citation(name)
    assert len(re.findall(r"^@article\{\w+,$", text, re.MULTILINE)) == len(
        _PAPERS[name]
    )
    for paper in _PAPERS[name]:
        assert text.count(f"doi = {{{paper.doi}}}") == 1
        assert f"doi:{paper.doi}\n" in text
    entries = text.split("@article")[1:]
    assert all(entry.count("{") == entry.count("}") for entry in entries)


def test_papers_that_parts_share_come_once() -> None:
    assert citation("crlb", "design") == citation("crlb")
    everything = citation()
    assert all(everything.count(f"@article{{{paper.key},") == 1 for paper in PAPERS)


def test_papers_are_complete() -> None:
    for paper in PAPERS:
        assert all(paper)
        assert re.fullmatch(r"10\.\d{4}/\S+", paper.doi)
        assert paper.key.endswith(paper.year)


def test_parts_exist() -> None:
    mrsim = importlib.import_module("mrsim")
    assert all(
        hasattr(mrsim, name) or importlib.util.find_spec(f"mrsim.{name}")
        for name in _PAPERS
    )
    assert {"epg", "torrey", "tract", "ivim"} <= set(_PAPERS)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"'egp' is unknown; give some of epg, .*crlb"):
        citation("epg", "egp")
