"""Bad input: one clear sentence each, at the caller's line."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strategies
import torch
from hypothesis import given
from torch import Tensor
from torch.func import grad, vmap

import mrsim
from mrsim import Tissue, neutral, record, tree
from mrsim._check import check_floats, check_shapes, concrete, require, transforming
from mrsim.units import deg, ms


@record
class Train:
    """A train of pulses."""

    flip: Tensor
    esp: Tensor
    phase: Tensor | None = neutral(0.0, like="flip")


@record
class Protocol:
    """A record inside a record."""

    train: Train
    TR: Tensor


WARNINGS = {
    "ms for s": (
        lambda: Tissue(T1=950.0, T2=0.1),
        r"Tissue: T1 = 950 s looks like milliseconds; mrsim takes seconds, write"
        r" 950 \* mrsim\.units\.ms",
    ),
    "ms for s in a list": (
        lambda: Tissue(T1=[0.9, 1200.0], T2=0.1),
        "T1 = 1200 s looks like milliseconds",
    ),
    "ms for s in an array": (
        lambda: Tissue(T1=np.array([800.0, 0.9]), T2=0.1),
        "T1 = 800 s looks like milliseconds",
    ),
    "esp": (lambda: Train(flip=[1.0], esp=61.0), "Train: esp = 61 s looks like"),
    "degrees": (
        lambda: Train(flip=[1.0, 180.0], esp=8 * ms),
        r"Train: flip = 180 rad looks like degrees; .* write 180 \* mrsim\.units\.deg",
    ),
    "swapped": (
        lambda: Tissue(T1=0.1, T2=1.0),
        "T2 is larger than T1 in 1 of 1 voxels, which no tissue shows; are they swap",
    ),
    "swapped in a map": (
        lambda: Tissue(T1=[1.0, 0.1], T2=0.5),
        "T2 is larger than T1 in 1 of 2 voxels",
    ),
    "NaN": (
        lambda: Tissue(T1=[1.0, float("nan")], T2=0.1),
        "Tissue: T1 is NaN in 1 of 2 values",
    ),
}


@pytest.mark.parametrize(("make", "said"), WARNINGS.values(), ids=WARNINGS.keys())
def test_slips_warn(make: Callable[[], Any], said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        make()


@given(strategies.tissues(optional=True), strategies.programs())
def test_physical_values_pass_in_silence(tissue: Tissue, program: Any) -> None:
    assert mrsim.check(tissue) is tissue
    assert mrsim.check(program) is program


@pytest.mark.parametrize("name", ["T1", "T2"])
@pytest.mark.parametrize("value", [-0.1, [0.1, -0.2], np.array(-1.0), -float("inf")])
def test_negative_times_raise(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"Tissue: {name} must not be negative, got -"):
        Tissue(**({"T1": 1.0, "T2": 0.1} | {name: value}))


def test_limits_and_odd_shapes_pass() -> None:
    Tissue(T1=float("inf"), T2=0.0)
    Tissue(T1=[1.0, 2.0, 3.0], T2=[0.1, 0.2])  # shapes are the simulator's to refuse
    Train(flip=[-4 * torch.pi, 720 * deg], esp=60.0)
    Train(flip=[], esp=0.0)


def test_tensors_are_not_looked_at_before_check() -> None:
    tissue = Tissue(T1=torch.tensor(950.0), T2=torch.tensor(100.0))
    with pytest.warns(UserWarning, match="T[12] = .* looks like milli") as seen:
        mrsim.check(tissue)
    assert len(seen) == 2
    slipped = Train(flip=[1.0], esp=torch.tensor(-1.0))
    with pytest.raises(ValueError, match="esp must not be negative"):
        mrsim.check(slipped)


def test_check_looks_inside_records() -> None:
    train = Train(flip=torch.tensor([180.0]), esp=8 * ms)
    with pytest.warns(UserWarning, match="Train: flip = 180 rad"):
        mrsim.check(Protocol(train=train, TR=1.0))
    bad = Train(flip=[1.0], esp=torch.tensor(-1.0))
    with pytest.raises(ValueError, match="Train: esp must not be negative"):
        mrsim.check(Protocol(train=bad, TR=1.0))


def slip() -> list[warnings.WarningMessage]:
    """Make each kind of warning, one a line."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Tissue(T1=950.0, T2=0.1)
        Tissue(T1=0.1, T2=1.0)
        mrsim.replace(Tissue(T1=1.0, T2=0.1), T1=950.0)
        mrsim.grid(Tissue(T1=1.0, T2=0.1), T1=[950.0])
        mrsim.check(Tissue(T1=torch.tensor(950.0), T2=0.1))
        mrsim.check(Tissue(T1=torch.tensor(0.05), T2=torch.tensor(0.1)))
        mrsim.check(Protocol(train=Train(flip=torch.ones(1) * 90, esp=0.1), TR=1.0))
    return list(seen)


def test_warnings_point_at_the_users_line() -> None:
    start = slip.__code__.co_firstlineno
    seen = slip()
    assert {w.filename for w in seen} == {__file__}
    assert [w.lineno - start for w in seen] == [4, 5, 6, 7, 8, 9, 10]


def test_values_inside_transforms_are_left_alone() -> None:
    def f(t: Tensor) -> Tensor:
        return mrsim.check(Tissue(T1=t, T2=[t, 2 * t])).T2.sum()

    t = torch.tensor([-1.0, 900.0])
    torch.testing.assert_close(vmap(f)(t), 3 * t)
    torch.testing.assert_close(vmap(grad(f))(t), torch.full((2,), 3.0))


def test_concrete_and_transforming() -> None:
    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append((concrete(x), concrete(torch.ones(1)), transforming()))
        return x

    spy(torch.ones(2))
    vmap(spy)(torch.ones(2))
    grad(spy)(torch.tensor(1.0))
    assert seen == [(True, True, False), (False, True, True), (False, False, True)]
    assert not concrete(torch.ones(1, device="meta"))


class TestCheckFloats:
    def test_passes_floats_and_absent_fields(self) -> None:
        check_floats("f", a=torch.ones(2), b=torch.ones(()), c=None)
        check_floats("f", a=None)
        check_floats("f")

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (
                1,
                r"f: a must be a floating-point tensor, got the int 1; write .* 1\.0",
            ),
            (torch.tensor(1), r"got torch\.int64; convert it with a\.to\("),
            (torch.tensor([True]), r"got torch\.bool"),
            (torch.tensor(1j), r"got torch\.complex128"),
            (np.ones(2), r"got a ndarray; convert it with torch\.as_tensor\(a\)"),
        ],
    )
    def test_refuses_the_rest(self, value: Any, said: str) -> None:
        with pytest.raises(TypeError, match=said):
            check_floats("f", ok=torch.ones(1), a=value)

    def test_refuses_mixed_dtypes(self) -> None:
        with pytest.raises(
            TypeError,
            match=r"f: a is torch\.float64 but b is torch\.float32; .*mrsim\.to\(",
        ):
            check_floats("f", a=torch.ones(1), b=torch.ones(1, dtype=torch.float32))

    def test_refuses_mixed_devices(self) -> None:
        with pytest.raises(
            ValueError, match=r"f: a is on cpu but b is on meta; .*device="
        ):
            check_floats("f", a=torch.ones(1), b=torch.ones(1, device="meta"))


class TestCheckShapes:
    AXES = {"flip": "echo", "esp": "", "phase": "echo"}

    def test_returns_the_axes(self) -> None:
        train = Train(flip=[1.0, 2.0], esp=0.01)
        assert check_shapes("fse", train, **self.AXES) == {"echo": 2}

    def test_teaches_vmap_for_one_axis_too_many(self) -> None:
        with pytest.raises(
            ValueError,
            match=r"fse: flip must have shape \(echo\), got \(3, 2\);"
            r" map over a batch with vmap\(fse, in_dims=\(None, 0\)\)",
        ):
            check_shapes("fse", Train(flip=torch.ones(3, 2), esp=0.01), **self.AXES)
        with pytest.raises(ValueError, match=r"T1 must .* in_dims=\(0, None\)"):
            check_shapes("fse", Tissue(T1=[1.0, 2.0], T2=0.1), T1="", T2="")

    def test_teaches_an_axis_too_few(self) -> None:
        with pytest.raises(
            ValueError, match=r"flip must have .* give one value for each"
        ):
            check_shapes("fse", Train(flip=1.0, esp=0.01), **self.AXES)

    def test_teaches_lengths(self) -> None:
        train = Train(flip=[1.0, 2.0], phase=[0.0] * 3, esp=0.01)
        with pytest.raises(
            ValueError,
            match=r"phase has 3 along 'echo' but flip has 2; give them the same",
        ):
            check_shapes("fse", train, **self.AXES)

    def test_sees_one_item_inside_vmap(self) -> None:
        def f(train: Train) -> Tensor:
            assert check_shapes("f", train, **self.AXES) == {"echo": 2}
            return train.flip

        vmap(f)(mrsim.expand(Train(flip=[1.0, 2.0], esp=0.01), 3))


def test_require_names_the_extra() -> None:
    assert require("math", "opt").pi == np.pi
    with pytest.raises(ImportError, match=r'no_such .* pip install "mrsim\[demo\]"'):
        require("no_such", "demo")


def test_checks_change_nothing() -> None:
    tissue = Tissue(T1=[1.0, 2.0], T2=0.1)
    before = [v.clone() for v in tree.tree_leaves(tissue)]
    mrsim.check(tissue)
    assert all(map(torch.equal, tree.tree_leaves(tissue), before))


def test_echo_after_the_repetition_is_refused() -> None:
    from mrsim import epg

    with pytest.raises(ValueError, match=r"SPGR: TE is longer than TR in 1 of 1"):
        epg.SPGR(flip=0.2, TR=0.005, TE=0.01)
    with pytest.raises(ValueError, match=r"TE is longer than TR in 2 of 3"):
        epg.FISP(flip=[0.1] * 3, TR=[0.01, 0.02, 0.01], TE=0.015)
