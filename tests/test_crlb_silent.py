"""Cramér-Rao bounds without information: what is inf, what is not, who is told."""

import math
import warnings
from typing import Any

import pytest
import torch
from crlb_models import TIMES, scaled, spiral, stacked
from models import Samples, Voxel, ir, monoexp
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev

import mrsim
from mrsim import Tissue, epg


def silent(f: Any, *args: Any) -> Any:
    """Call without the warning that a test is not about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args)


def test_inversion_recovery_sampled_at_the_null_knows_no_M0() -> None:
    """The trap of optimal designs: both TI at T1 ln 2, where dS/dM0 = 0."""
    voxel = Voxel(M0=1.0, T1=1.0)
    null = Samples(x=torch.full((2,), math.log(2)))
    with pytest.warns(UserWarning, match=r"inf for M0 \(no effect") as caught:
        made = mrsim.crlb(ir, "M0", "T1", sigma=0.01)(voxel, null)
    assert __file__ in {w.filename for w in caught if "M0" in str(w.message)}
    assert made.M0.isinf()
    known = mrsim.crlb(ir, "T1", sigma=0.01)(voxel, null).T1
    assert pytest.approx(known.item()) == made.T1
    with pytest.warns(UserWarning, match="M0"):
        mrsim.crlb(ir, "T1", sigma=0.01, nuisance="M0")(voxel, null)


def test_inversion_recovery_with_one_inversion_time_knows_neither() -> None:
    voxel = Voxel(M0=1.0, T1=1.0)
    with pytest.warns(UserWarning, match=r"M0, T1 \(only combined\)"):
        made = mrsim.crlb(ir, "M0", "T1", sigma=0.01)(voxel, Samples(x=[0.5, 0.5]))
    assert made.M0.isinf()
    assert made.T1.isinf()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coupled_unknowns_leave_the_others_alone(dtype: torch.dtype) -> None:
    tissue = mrsim.to(Tissue(T1=1.0, T2=0.1, M0=2.0, B1=1.1), dtype)
    seq = mrsim.to(TIMES, dtype)
    bound = mrsim.crlb(scaled, "M0", "B1", "T1", "T2", sigma=0.01)
    message = r"inf for T1 \(no effect on the signal\) and M0, B1 \(only combined\)"
    with pytest.warns(UserWarning, match=message):
        made = bound(tissue, seq)
    lost = stacked(made, "M0", "B1", "T1")
    assert lost.dtype == dtype
    assert (lost == math.inf).all()
    alone = mrsim.crlb(scaled, "M0", "T2", sigma=0.01)
    assert torch.allclose(made.T2, alone(tissue, seq).T2)

    def each(x: Tensor) -> Tensor:
        return stacked(bound(tissue, Samples(x=x)), "M0", "B1", "T1", "T2")

    for derivative in (jacfwd(each), jacrev(each), hessian(each)):
        values = derivative(seq.x)
        assert values.isfinite().all()
        assert (values[:3] == 0).all()
        assert (values[3] != 0).any()
    for order in (jacrev, hessian, lambda f: jacrev(hessian(f))):
        made = order(lambda x: bound(tissue, Samples(x=x)).T2)(seq.x)
        wanted = order(lambda x: alone(tissue, Samples(x=x)).T2)(seq.x)
        close = 1e-8 if dtype == torch.float64 else 1e-3
        assert (made - wanted).abs().max() < close * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("echoes", [4, 96])
def test_rounding_is_no_information(dtype: torch.dtype, echoes: int) -> None:
    """180° pulses see no B1 and echoes no df, but sin(π) and phases are not exact."""
    tissue = mrsim.to(Tissue(T1=1.0, T2=0.1, B1=1.0, df=80.0), dtype)
    seq = mrsim.to(epg.FSE(flip=[math.pi] * echoes, esp=0.01), dtype)
    made = silent(mrsim.crlb(epg.fse, "M0", "T2", "B1", "df", sigma=0.01), tissue, seq)
    alone = mrsim.crlb(epg.fse, "M0", "T2", sigma=0.01)(tissue, seq)
    assert made.B1 == made.df == math.inf
    assert torch.allclose(made.T2, alone.T2)
    matrix = mrsim.fisher(epg.fse, "M0", "B1", sigma=0.01)(tissue, seq)
    assert (matrix[1] == 0).all()


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_rounding_is_no_information_in_any_unit(unit: float) -> None:
    voxel = Voxel(M0=1.0, D=unit)

    def signal(v: Voxel, seq: Samples) -> Tensor:
        return v.M0 * (-seq.x).exp() + 1e-16 * (seq.x / unit * v.D).sin()

    made = silent(mrsim.crlb(signal, "M0", "D", sigma=0.1), voxel, TIMES)
    assert made.D == math.inf


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float32, 1e-3), (torch.float64, 1e-10)]
)
def test_weak_information_is_information(dtype: torch.dtype, share: float) -> None:
    voxel = mrsim.to(Voxel(M0=1.0, A=2.0), dtype)

    def signal(v: Voxel, seq: Samples) -> Tensor:
        return v.M0 * (-seq.x).exp() + share * v.A * seq.x.sin()

    made = mrsim.crlb(signal, "A", sigma=0.1)(voxel, mrsim.to(TIMES, dtype)).A
    assert made == pytest.approx(0.01 / share**2 / (TIMES.x.sin() ** 2).sum().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("df", [0.0, 1e-6, -3.0])
def test_a_parameter_at_zero_is_identifiable(dtype: torch.dtype, df: float) -> None:
    tissue = mrsim.to(Tissue(T1=1.0, T2=0.1, M0=1.0, df=df), dtype)
    made = mrsim.crlb(spiral, "df", sigma=0.01)(tissue, mrsim.to(TIMES, dtype)).df
    wanted = 1e-4 / ((2 * math.pi * TIMES.x * torch.exp(-TIMES.x / 0.1)) ** 2).sum()
    assert made == pytest.approx(wanted.item(), rel=1e-5)


def test_without_signal_only_the_amplitude_is_known() -> None:
    voxel = Voxel(M0=0.0, T2=0.08)
    made = silent(mrsim.crlb(monoexp, "M0", "T2", sigma=0.1), voxel, TIMES)
    known = mrsim.crlb(monoexp, "M0", sigma=0.1)(voxel, TIMES).M0
    assert made.T2.isinf()
    assert pytest.approx(known.item()) == made.M0


def test_the_warning_tells_who_and_why_and_what_to_do() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, M0=2.0, B1=1.1)
    with pytest.warns(UserWarning, match="crlb") as caught:
        mrsim.crlb(scaled, "M0", "B1", "T1", "T2", sigma=0.01)(tissue, TIMES)
    assert [str(w.message) for w in caught] == [
        "crlb: the variance is inf for T1 (no effect on the signal) and M0, B1 (only"
        " combined); leave them out, give them a prior, or change the sequence"
    ]


@mrsim.record
class Shell:
    """A second pool, off resonance."""

    M0: Tensor
    df: Tensor | None = mrsim.neutral(0.0)


@mrsim.record
class Nested:
    """A voxel that holds a pool."""

    T2: Tensor
    pool: Shell


def test_a_nested_field_near_its_neutral_zero_is_identifiable() -> None:
    """Its natural change is one unit of its own record's field, as at the top."""

    def signal(x: Nested, seq: Samples) -> Tensor:
        turn = 2 * math.pi * x.pool.df * seq.x
        return x.pool.M0 * torch.polar(torch.exp(-seq.x / x.T2), turn)

    seq = mrsim.to(TIMES, torch.float32)
    wanted = 1e-4 / ((2 * math.pi * TIMES.x * torch.exp(-TIMES.x / 0.1)) ** 2).sum()
    for df in (0.0, 1e-6, -1e-5):
        voxel = mrsim.to(Nested(T2=0.1, pool=Shell(M0=1.0, df=df)), torch.float32)
        made = mrsim.crlb(signal, "pool.df", sigma=0.01)(voxel, seq)
        assert made.T2 is None
        assert made.pool.M0 is None
        assert made.pool.df == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("field", ["df", "phase"])
def test_noise_begins_where_it_is_said_to(field: str) -> None:
    """‖scale J‖ ≤ 100 √samples eps ‖s‖, the scale being the field's size or 1 unit."""

    @mrsim.record
    class Line:
        M0: Tensor
        df: Tensor | None = mrsim.neutral(0.0)  # no less than 1 unit
        phase: Tensor | None = None  # its own size

    size = {"df": 0.25, "phase": 8.0}[field]
    scale = {"df": 1.0, "phase": 8.0}[field]
    edge = 100 * math.sqrt(5) * torch.finfo(torch.float64).eps

    def matrix(share: float) -> Tensor:
        def signal(x: Line, seq: Samples) -> Tensor:
            known = x.M0 * (-seq.x).exp()
            small = share * edge / scale * (-seq.x).exp()
            return known + small * (getattr(x, field) - size)

        line = mrsim.replace(Line(M0=1.0), **{field: torch.tensor(size)})
        return mrsim.fisher(signal, field, sigma=0.1)(line, TIMES)

    assert matrix(0.9) == 0
    assert matrix(1.1) > 0
