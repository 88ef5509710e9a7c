"""Which path runs, and who decides."""

import pytest
import torch
from both_paths import agree, on_torch
from cases import FULL, PLAIN, TRAIN, _mixed
from torch import Tensor
from torch.func import jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from mrsim import epg
from mrsim.epg import engine
from mrsim.tree import replace

if epg.engine_info().path != "fused":
    pytest.skip("no compiled kernel here", allow_module_level=True)

MIXED = _mixed()


def test_engine_info_says_which_path_runs_and_why() -> None:
    assert epg.engine_info(FULL, MIXED).path == "fused"
    spread = replace(FULL, T2p=torch.tensor(0.03))
    info = epg.engine_info(spread, MIXED)
    assert info.path == "torch"
    assert "T2′" in info.why
    with epg.use_engine("torch"):
        assert epg.engine_info(FULL, MIXED) == ("torch", "the torch path was asked for")
    with pytest.raises(ValueError, match="a tissue and a program"):
        epg.engine_info(FULL)
    with pytest.raises(ValueError, match="'gpu'"), epg.use_engine("gpu"):  # pyright: ignore
        pass


def test_an_unknown_path_in_the_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MRSIM_ENGINE", "gpu")
    with pytest.raises(ValueError, match="MRSIM_ENGINE"):
        epg.fse(PLAIN, TRAIN)


def test_a_value_without_a_pass_of_tangents_is_written() -> None:
    """Forward mode over something else leaves the value to be worked out."""
    wanted = epg.fse(PLAIN, TRAIN)

    def f(x: Tensor) -> Tensor:
        return epg.fse(PLAIN, TRAIN).real * x

    value, move = jvp(f, (torch.tensor(2.0),), (torch.tensor(3.0),))
    agree((value, move), (2 * wanted.real, 3 * wanted.real), 1e-13)

    def both(T2: Tensor, x: Tensor) -> Tensor:
        return vmap(lambda x: epg.fse(replace(PLAIN, T2=T2), TRAIN).real * x)(x)

    x = (PLAIN.T2, torch.tensor([1.0, 2.0]))
    agree(jvp(both, x, x), on_torch(jvp, both, x, x), 1e-12)


def test_the_environment_can_ask_for_the_torch_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MRSIM_ENGINE", "torch")
    seen = []
    monkeypatch.setattr(engine, "fused", lambda *_: seen.append(1))
    epg.fse(PLAIN, TRAIN)
    assert not seen
    assert epg.engine_info().path == "torch"


def test_tracing_takes_the_torch_path() -> None:
    def f(T2: Tensor) -> Tensor:
        return epg.fse(replace(PLAIN, T2=T2), TRAIN).real

    graph = make_fx(f)(PLAIN.T2)
    agree(graph(2 * PLAIN.T2), f(2 * PLAIN.T2))
