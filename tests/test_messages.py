"""What is said to stumbles that are seldom made."""

from pathlib import Path

import pytest
import torch
from torch.func import vmap

import mrsim
from mrsim import Tissue, demo, epg, jac
from mrsim.__main__ import main
from mrsim._explained import explained
from mrsim._remat import closed_over

TISSUE = Tissue(T1=1.0, T2=0.1)


def test_replace_names_unknown_fields_and_those_there_are() -> None:
    with pytest.raises(TypeError, match=r"Tissue has no field t1, t2; it has T1, T2, "):
        mrsim.replace(TISSUE, t2=1.0, T1=1.0, t1=1.0)


@pytest.mark.parametrize(
    ("made", "got"),
    [
        (3.0, "float"),
        ((), "nothing"),
        ((torch.ones(1), "a"), "str"),
        (None, "NoneType"),
    ],
)
def test_what_has_a_jacobian_is_a_tensor(made: object, got: str) -> None:
    with pytest.raises(TypeError, match=f"must return tensors, got {got}"):
        jac(lambda _: made, "T1")(TISSUE)


def test_what_torch_says_of_its_transforms_stays() -> None:
    def counted(x: torch.Tensor) -> object:
        return vmap(lambda y: y.item())(x)

    inside = type(counted)(counted.__code__, {"vmap": vmap, "__name__": "mrsim.inside"})
    inside.__module__ = "mrsim.inside"
    with pytest.raises(RuntimeError, match=r"vmap: .*\.item\(\)"):
        explained(inside, "mrsim.inside")(torch.ones(2))


def test_a_name_that_is_not_bound_yet_is_no_tensor_closed_over() -> None:
    here = torch.ones(2)

    def f() -> object:
        return here, later

    assert [name for name, _ in closed_over(f)] == ["here"]
    later = torch.zeros(2)
    assert {name for name, _ in closed_over(f)} == {"here", "later"}


def test_the_demo_shows_its_table_unless_it_is_to_be_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run", lambda options: [options.echoes])
    monkeypatch.setattr(demo, "table", lambda report: f"{report} echoes")
    asked = ["--echoes", "7", "--out", str(tmp_path), "--threads", "1"]
    assert main([*asked, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(asked) == 0
    assert capsys.readouterr().out == f"\n[7] echoes\nwritten to {tmp_path}/\n"


def test_a_state_without_bound_pools_is_not_saturated() -> None:
    alone = epg.equilibrium(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"one component .* got \(1,\) and 0 comp"):
        epg.saturate(alone, torch.tensor([0.7]))
