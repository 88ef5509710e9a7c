"""Fisher information and Cramér-Rao bounds."""

import math
import warnings
from typing import Any

import pytest
import torch
from models import Samples, Voxel, ir, monoexp
from torch import Tensor
from torch.func import grad, grad_and_value, hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.units import deg, ms

TIMES = Samples(x=torch.tensor([0.01, 0.03, 0.06, 0.1, 0.2]))
VOXEL = Voxel(M0=1.3, T2=0.08)


def spiral(tissue: Tissue, seq: Samples) -> Tensor:
    """A complex signal of M0, T2, df and B1 (as a flip angle's scale)."""
    turn = torch.exp(2j * math.pi * tissue.df * seq.x)
    start = 1 if tissue.B1 is None else (tissue.B1 * (1 + 2 * seq.x)).sin()
    return tissue.M0 * start * torch.exp(-seq.x / tissue.T2) * turn


def scaled(tissue: Tissue, seq: Samples) -> Tensor:
    """A signal that knows M0 and B1 as a product only, and no T1."""
    return tissue.M0 * tissue.B1 * torch.exp(-seq.x / tissue.T2)


def stacked(x: Any, *names: str) -> Tensor:
    return torch.stack([getattr(x, n) for n in names])


def silent(f: Any, *args: Any) -> Any:
    """Call without the warning that a test is not about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args)


# ---------------------------------------------------------------- definition


def test_straight_line_has_the_variances_of_linear_regression() -> None:
    voxel, t = Voxel(A=2.0, B=0.5), torch.arange(6.0)

    def line(v: Voxel, seq: Samples) -> Tensor:
        return v.A + v.B * seq.x

    made = mrsim.crlb(line, "A", "B", sigma=0.1)(voxel, Samples(x=t))
    spread = ((t - t.mean()) ** 2).sum()
    assert pytest.approx(0.01 / spread) == made.B
    assert pytest.approx(0.01 * (1 / 6 + t.mean() ** 2 / spread)) == made.A


def test_sigma_is_that_of_each_real_channel() -> None:
    def flat(tissue: Tissue, seq: Samples) -> Tensor:
        return tissue.M0 * torch.exp(1j * seq.x)

    tissue, phases = Tissue(T1=1.0, T2=0.1, M0=1.0), torch.linspace(0, 3, 8)
    made = mrsim.crlb(flat, "M0", sigma=0.2)(tissue, Samples(x=phases)).M0
    assert made == pytest.approx(0.2**2 / 8)


def test_complex_information_is_that_of_both_channels() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, M0=1.2, B1=0.9, df=7.0)
    names = ("M0", "T2", "df", "B1")

    def both(tissue: Tissue, seq: Samples) -> Tensor:
        return torch.view_as_real(spiral(tissue, seq))

    made = mrsim.fisher(spiral, *names, sigma=0.1)(tissue, TIMES)
    assert torch.allclose(made, mrsim.fisher(both, *names, sigma=0.1)(tissue, TIMES))
    assert torch.allclose(made, made.mT, rtol=1e-14)


def test_nuisances_come_last_and_stay_out_of_the_result() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, M0=1.2, B1=0.9, df=7.0)
    options = {"sigma": 0.1, "nuisance": ["df", "M0"]}
    swapped = mrsim.fisher(spiral, "T2", **options)(tissue, TIMES)
    plain = mrsim.fisher(spiral, "T2", "df", "M0", sigma=0.1)(tissue, TIMES)
    assert torch.equal(swapped, plain)
    made = mrsim.crlb(spiral, "T2", **options)(tissue, TIMES)
    assert (made.M0, made.df, made.T1) == (None, None, None)
    assert made.T2 == mrsim.crlb(spiral, "T2", "df", "M0", sigma=0.1)(tissue, TIMES).T2
    assert made.T2 > mrsim.crlb(spiral, "T2", sigma=0.1)(tissue, TIMES).T2


def test_one_nuisance_needs_no_list() -> None:
    made = mrsim.crlb(monoexp, "T2", sigma=0.1, nuisance="M0")(VOXEL, TIMES)
    assert made.M0 is None
    assert made.T2 == mrsim.crlb(monoexp, "T2", "M0", sigma=0.1)(VOXEL, TIMES).T2


def test_no_name_means_every_present_field() -> None:
    named = mrsim.crlb(monoexp, "M0", "T2", sigma=0.1)(VOXEL, TIMES)
    free = mrsim.crlb(monoexp, sigma=0.1)(VOXEL, TIMES)
    assert (free.M0, free.T2) == (named.M0, named.T2)


def test_unknowns_may_live_in_any_argument() -> None:
    voxel, seq = Voxel(M0=1.0, T1=0.9), Samples(x=torch.linspace(0.1, 3, 6), TR=2.0)
    names = ("M0", "T1", "TR")
    there, here = mrsim.crlb(ir, *names, sigma=0.01)(voxel, seq)
    assert isinstance(there, Voxel)
    assert isinstance(here, Samples)
    assert here.x is None
    matrix = mrsim.fisher(ir, *names, sigma=0.01)(voxel, seq)
    made = torch.stack([there.M0, there.T1, here.TR])
    agree(made, mrsim.covariance(matrix).diagonal(), 1e-12)
    swapped = mrsim.crlb(ir, "TR", sigma=0.01, nuisance=["T1", "M0"])(voxel, seq)
    assert pytest.approx(here.TR.item()) == swapped.TR


def test_fields_with_axes_give_variances_with_axes() -> None:
    @mrsim.record
    class Mixture:
        weight: Tensor  # (pool,)
        T2: Tensor  # (pool,)

    def signal(x: Mixture, seq: Samples) -> Tensor:
        return (x.weight * torch.exp(-seq.x[:, None] / x.T2)).sum(-1)

    mixture = Mixture(weight=[0.3, 0.7], T2=[0.02, 0.1])
    seq = Samples(x=torch.linspace(0.005, 0.3, 20))
    made = mrsim.crlb(signal, "weight", "T2", sigma=0.001)(mixture, seq)
    assert made.weight.shape == made.T2.shape == (2,)
    matrix = mrsim.fisher(signal, "weight", "T2", sigma=0.001)(mixture, seq)
    wanted = mrsim.covariance(matrix).diagonal()
    assert torch.allclose(torch.cat([made.weight, made.T2]), wanted, rtol=1e-9)

    def blind(x: Mixture, seq: Samples) -> Tensor:
        return signal(mrsim.replace(x, T2=x.T2.mean().expand(2)), seq)

    with pytest.warns(UserWarning, match=r"T2\[0\], T2\[1\] \(only combined\)"):
        bound = mrsim.crlb(blind, "T2", sigma=0.001)(mixture, seq)
    assert bound.T2.isinf().all()


def test_absent_fields_take_their_neutral_value() -> None:
    bare, full = Tissue(T1=1.0, T2=0.1), Tissue(T1=1.0, T2=0.1, M0=1.0, B1=1.0)
    seq = epg.FSE(flip=[120 * deg] * 8, esp=8 * ms)
    bound = mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=0.01)
    names = ("M0", "T2", "B1")
    assert torch.equal(
        stacked(bound(bare, seq), *names), stacked(bound(full, seq), *names)
    )


# ---------------------------------------------------------------- weights, sigma, prior


def test_weights_are_repetitions() -> None:
    counts = torch.tensor([1, 3, 2, 1, 4])
    again = Samples(x=TIMES.x.repeat_interleave(counts))
    plain = mrsim.crlb(monoexp, "M0", "T2", sigma=0.1)(VOXEL, again)
    made = mrsim.crlb(monoexp, "M0", "T2", sigma=0.1, weights=counts)(VOXEL, TIMES)
    assert torch.allclose(stacked(made, "M0", "T2"), stacked(plain, "M0", "T2"))


def test_a_weight_of_zero_drops_the_sample_and_has_a_gradient() -> None:
    fewer = Samples(x=TIMES.x[[0, 2, 3, 4]])
    plain = mrsim.crlb(monoexp, "M0", "T2", sigma=0.1)(VOXEL, fewer).T2

    def variance(w: Tensor) -> Tensor:
        bound = mrsim.crlb(monoexp, "M0", "T2", sigma=0.1, weights=w)
        return bound(VOXEL, TIMES).T2

    w = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    assert variance(w) == pytest.approx(plain.item())
    step = 1e-6 * torch.eye(5)[1]
    slope = (variance(w + step) - variance(w)) / 1e-6
    assert grad(variance)(w)[1] == pytest.approx(slope.item(), rel=1e-4)
    assert slope < 0


def test_sigma_may_differ_between_samples() -> None:
    sigma = torch.tensor([0.1, 0.2, 0.1, 0.4, 0.1])
    made = mrsim.fisher(monoexp, "M0", "T2", sigma=sigma)(VOXEL, TIMES)
    weighted = mrsim.fisher(monoexp, "M0", "T2", sigma=1.0, weights=sigma**-2)
    assert torch.allclose(made, weighted(VOXEL, TIMES))


def test_a_prior_is_one_more_measurement() -> None:
    def direct(v: Voxel, seq: Samples) -> Tensor:
        return torch.cat([monoexp(v, seq), v.T2[None]])

    sigma = torch.tensor([0.1] * 5 + [0.02])
    wanted = mrsim.crlb(direct, "M0", "T2", sigma=sigma)(VOXEL, TIMES)
    prior = {"T2": 0.02}
    made = mrsim.crlb(monoexp, "M0", "T2", sigma=0.1, prior=prior)(VOXEL, TIMES)
    assert torch.allclose(stacked(made, "M0", "T2"), stacked(wanted, "M0", "T2"))


def test_information_adds_up() -> None:
    plain = mrsim.fisher(monoexp, "M0", "T2", sigma=0.1)(VOXEL, TIMES)
    prior = {"T2": torch.tensor(0.02)}
    made = mrsim.fisher(monoexp, "M0", "T2", sigma=0.1, prior=prior)(VOXEL, TIMES)
    agree(made, plain + torch.diag(torch.tensor([0.0, 2500.0])), 1e-12)
    both = mrsim.fisher(monoexp, "M0", "T2", sigma=0.2, prior={"M0": 0.5, "T2": 0.1})
    agree(both(VOXEL, TIMES), plain / 4 + torch.diag(torch.tensor([4.0, 100.0])), 1e-12)
    counts = torch.tensor([2.0, 0.0, 1.0, 0.5, 3.0])
    sigma = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    many = mrsim.fisher(monoexp, "M0", "T2", sigma=sigma, weights=counts)(VOXEL, TIMES)
    each = [
        n
        / s**2
        * mrsim.fisher(monoexp, "M0", "T2", sigma=1.0)(VOXEL, Samples(x=x[None]))
        for n, s, x in zip(counts, sigma, TIMES.x, strict=True)
    ]
    agree(many, sum(each), 1e-12)


def test_sigma_of_any_type_is_taken_in_double_precision() -> None:
    narrow = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.7], dtype=torch.float32)
    for sigma in (narrow, narrow[0]):
        made = mrsim.fisher(monoexp, "M0", "T2", sigma=sigma)(VOXEL, TIMES)
        wanted = mrsim.fisher(monoexp, "M0", "T2", sigma=sigma.double())(VOXEL, TIMES)
        agree(made, wanted, 1e-14)
    one = mrsim.fisher(monoexp, "M0", "T2", sigma=1.0)(VOXEL, TIMES)
    for whole in (2, torch.tensor(2), torch.full((5,), 2)):
        agree(
            mrsim.fisher(monoexp, "M0", "T2", sigma=whole)(VOXEL, TIMES), one / 4, 1e-14
        )


def test_a_prior_makes_the_unidentifiable_finite() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, M0=2.0, B1=1.1)
    bound = mrsim.crlb(
        scaled, "T1", "M0", "B1", "T2", sigma=0.01, prior={"T1": 0.3, "B1": 0.1}
    )
    made = bound(tissue, TIMES)
    product = mrsim.crlb(scaled, "M0", "T2", sigma=0.01)(tissue, TIMES)
    assert pytest.approx(0.3**2) == made.T1
    assert pytest.approx(0.1**2) == made.B1
    assert pytest.approx(product.T2.item()) == made.T2
    assert pytest.approx(product.M0.item() + (2.0 / 1.1 * 0.1) ** 2) == made.M0


def test_a_prior_keeps_the_curvature_of_a_silent_column() -> None:
    """At 180° the column of B1 is 0 but its derivative is not."""
    tissue, flips = Tissue(T1=1.0, T2=0.1), torch.full((6,), math.pi)

    def variance(flip: Tensor) -> Tensor:
        seq = epg.FSE(flip=flip, esp=torch.tensor(0.01))
        bound = mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=0.01, prior={"B1": 0.1})
        return bound(tissue, seq).T2

    step = 1e-4 * torch.eye(6)[2]
    slopes = grad(variance)(flips + step) - grad(variance)(flips - step)
    made = hessian(variance)(flips)[2]
    assert torch.allclose(made, slopes / 2e-4, rtol=1e-4, atol=1e-9)


# ---------------------------------------------------------------- no information


def test_inversion_recovery_sampled_at_the_null_knows_no_M0() -> None:
    """The trap of optimal designs: both TI at T1 ln 2, where dS/dM0 = 0."""
    voxel = Voxel(M0=1.0, T1=1.0)
    null = Samples(x=torch.full((2,), math.log(2)))
    with pytest.warns(UserWarning, match=r"inf for M0 \(no effect") as caught:
        made = mrsim.crlb(ir, "M0", "T1", sigma=0.01)(voxel, null)
    assert caught[0].filename == __file__
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


# ---------------------------------------------------------------- transforms


def variance(flip: Tensor) -> Tensor:
    """Return the bound of T2 as a function of the flips: jac inside a transform."""
    seq = epg.FSE(flip=flip, esp=flip.new_tensor(0.01))
    tissue = mrsim.to(Tissue(T1=1.0, T2=0.1), flip.dtype)
    return mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=0.01)(tissue, seq).T2


FLIPS = torch.tensor([2.8, 2.0, 1.6, 1.9])


def difference(f: Any, x: Tensor, step: float = 1e-4) -> Tensor:
    """Differentiate by central differences of fourth order."""
    steps = step * torch.eye(len(x))
    columns = [
        (8 * (f(x + s) - f(x - s)) - f(x + 2 * s) + f(x - 2 * s)) / (12 * step)
        for s in steps
    ]
    return torch.stack(columns, -1)


def agree(made: Tensor, wanted: Tensor, rtol: float) -> None:
    assert (made - wanted).abs().max() < rtol * wanted.abs().max()


def test_first_and_second_derivatives() -> None:
    slope = difference(variance, FLIPS)
    agree(jacrev(variance)(FLIPS), slope, 1e-8)
    agree(jacfwd(variance)(FLIPS), slope, 1e-8)
    curvature = difference(grad(variance), FLIPS)
    for second in (hessian(variance), jacrev(jacrev(variance))):
        agree(second(FLIPS), curvature, 1e-8)


def test_third_derivatives() -> None:
    def part(x: Tensor) -> Tensor:
        return variance(torch.cat([x, FLIPS[2:]]))

    x = FLIPS[:2]
    wanted = difference(jacrev(jacrev(part)), x)
    agree(jacrev(jacrev(jacrev(part)))(x), wanted, 1e-8)
    agree(jacfwd(hessian(part))(x), wanted, 1e-8)


@pytest.mark.parametrize("transform", [lambda f: f, jacfwd, jacrev, hessian])
def test_vmap_is_a_loop(transform: Any, generator: torch.Generator) -> None:
    flips = FLIPS + 0.2 * torch.randn(3, 4, generator=generator)
    f = transform(variance)
    agree(vmap(f)(flips), torch.stack([f(x) for x in flips]), 1e-10)
    nested = vmap(vmap(f))(flips[None])[0]
    agree(nested, vmap(f)(flips), 1e-12)


@pytest.mark.parametrize("transform", [lambda f: f, jacfwd, jacrev, hessian])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bad_voxels_change_no_neighbour(transform: Any, dtype: torch.dtype) -> None:
    T2 = torch.tensor([0.05, math.nan, 0.1, 0.07, 0.2], dtype=dtype)
    M0 = torch.tensor([1.0, 1.0, 0.0, 2.0, math.inf], dtype=dtype)
    names = ("M0", "T2", "A")  # eigh accepts NaN in matrices smaller than 3 x 3

    def offset(voxel: Voxel, seq: Samples) -> Tensor:
        return monoexp(voxel, seq) + voxel.A

    def bounds(theta: Tensor) -> Tensor:
        voxel = Voxel(M0=theta[0], T2=theta[1], A=theta.new_tensor(0.1))
        bound = mrsim.crlb(offset, *names, sigma=0.1)
        return stacked(bound(voxel, mrsim.to(TIMES, dtype)), *names)

    f = transform(bounds)
    made = vmap(f)(torch.stack([M0, T2], 1))
    for k in (0, 3):
        wanted = f(torch.stack([M0[k], T2[k]]))
        agree(made[k], wanted, 1e-5 if dtype == torch.float32 else 1e-11)
    assert made[1].isnan().all()
    assert made[4].isnan().all()
    assert not made[2].isnan().any()
    if f is bounds:
        assert made[2].isinf().tolist() == [False, True, False]
    else:
        assert (made[2][1] == 0).all()


def test_gradients_reach_sigma_prior_and_weights() -> None:
    def cost(sigma: Tensor, sd: Tensor, weights: Tensor) -> Tensor:
        prior = {"T2": sd}
        bound = mrsim.crlb(
            monoexp, "M0", "T2", sigma=sigma, prior=prior, weights=weights
        )
        return bound(VOXEL, TIMES).T2

    at = (torch.tensor(0.1), torch.tensor(0.05), torch.ones(5))
    slopes = grad(cost, argnums=(0, 1, 2))(*at)
    assert slopes[0] > 0
    assert slopes[1] > 0
    assert (slopes[2] < 0).all()
    batch = tuple(x.expand(3, *x.shape) for x in at)
    agree(vmap(cost)(*batch), cost(*at).expand(3), 1e-12)


def test_transforms_are_silent() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, M0=2.0, B1=1.1)
    bound = mrsim.crlb(scaled, "M0", "B1", "T1", sigma=0.01)

    def lost(x: Tensor) -> Tensor:
        return bound(tissue, Samples(x=x)).M0

    assert (grad(lost)(TIMES.x) == 0).all()
    assert (jacfwd(lost)(TIMES.x) == 0).all()
    assert vmap(lost)(TIMES.x.expand(2, 5)).isinf().all()


def test_a_lone_silent_unknown_in_a_transform_is_inf() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, M0=2.0, B1=1.1)

    def lost(sigma: Tensor) -> Tensor:
        return mrsim.crlb(scaled, "T1", sigma=sigma)(tissue, TIMES).T1

    slope, value = grad_and_value(lost)(torch.tensor(0.1))
    assert (slope, value) == (0, math.inf)


# ---------------------------------------------------------------- precision, devices


def test_float32_follows_float64_at_high_condition_numbers() -> None:
    """Two close decays: the scaled Fisher matrix has a condition number of 1e4."""

    @mrsim.record
    class Two:
        a: Tensor
        b: Tensor
        Ta: Tensor
        Tb: Tensor

    def signal(x: Two, seq: Samples) -> Tensor:
        return x.a * torch.exp(-seq.x / x.Ta) + x.b * torch.exp(-seq.x / x.Tb)

    pools = Two(a=0.4, b=0.6, Ta=0.04, Tb=0.09)
    seq = Samples(x=torch.linspace(0.005, 0.3, 32))
    names = ("a", "b", "Ta", "Tb")
    wanted = stacked(mrsim.crlb(signal, *names, sigma=0.01)(pools, seq), *names)
    matrix = mrsim.fisher(signal, *names, sigma=0.01)(pools, seq)
    unit = matrix.diagonal().sqrt()
    assert torch.linalg.cond(matrix / unit / unit[:, None]) > 5e3
    single = (mrsim.to(pools, torch.float32), mrsim.to(seq, torch.float32))
    made = stacked(mrsim.crlb(signal, *names, sigma=0.01)(*single), *names)
    assert made.dtype == torch.float32
    assert torch.allclose(made.double(), wanted, rtol=2e-4)
    assert mrsim.fisher(signal, *names, sigma=0.01)(*single).dtype == torch.float32


def test_float32_echo_trains_follow_float64() -> None:
    flips = torch.tensor([150.0, 110, 80, 60, 60, 60, 70, 90, 100, 120, 90, 60]) * deg
    made = variance(flips.float())
    assert made.dtype == torch.float32
    assert made == pytest.approx(variance(flips).item(), rel=1e-4)
    slopes = grad(variance)(flips.float())
    assert slopes.dtype == torch.float32
    agree(slopes.double(), grad(variance)(flips), 1e-3)


def test_meta_tensors_give_shapes() -> None:
    tissue = mrsim.to(Tissue(T1=1.0, T2=0.1, M0=1.0), device="meta")
    made = mrsim.crlb(spiral, "M0", "T2", "df", sigma=0.1)(
        tissue, mrsim.to(TIMES, device="meta")
    )
    assert made.T2.device.type == "meta"
    assert made.T2.shape == ()


# ---------------------------------------------------------------- criteria, batches


def test_average_and_worst_over_tissues() -> None:
    tissues = Tissue(T1=torch.full((3,), 1.0), T2=torch.tensor([0.04, 0.08, 0.16]))
    seq = epg.FSE(flip=[150 * deg, 120 * deg, 100 * deg, 90 * deg], esp=10 * ms)

    def cost(tissue: Tissue, seq: epg.FSE) -> Tensor:
        return (
            mrsim.crlb(epg.fse, "M0", "T2", sigma=0.01)(tissue, seq).T2 / tissue.T2**2
        )

    pairs = zip(tissues.T1, tissues.T2, strict=True)
    each = torch.stack([cost(Tissue(T1=a, T2=b), seq) for a, b in pairs])
    assert mrsim.average(cost)(tissues, seq) == pytest.approx(each.mean().item())
    shares = torch.tensor([1.0, 0.0, 3.0])
    weighted = mrsim.average(cost, weights=shares)(tissues, seq)
    assert weighted == pytest.approx(((each[0] + 3 * each[2]) / 4).item())
    assert mrsim.worst(cost)(tissues, seq) == pytest.approx(each.max().item())
    smooth = mrsim.worst(cost, power=8)(tissues, seq)
    assert smooth == pytest.approx((each**8).mean().item() ** (1 / 8))
    for objective in (
        mrsim.average(cost),
        mrsim.worst(cost),
        mrsim.worst(cost, power=8),
    ):
        slope = grad(lambda q, f=objective: f(tissues, q))(seq).flip
        wanted = difference(
            lambda x, f=objective: f(tissues, mrsim.replace(seq, flip=x)), seq.flip
        )
        agree(slope, wanted, 1e-7)


def test_criteria_over_tissues_are_means_and_norms() -> None:
    """Costs 1, 2 and 4 times a factor, with the derivatives that these have."""
    tissues = Tissue(T1=torch.ones(3), T2=torch.tensor([0.1, 0.2, 0.4]))

    def cost(tissue: Tissue, x: Tensor, unit: float) -> Tensor:
        return x * tissue.T2 / unit

    x, shares = torch.tensor(3.0), torch.tensor([1.0, 2.0, 0.0])
    costs = torch.tensor([3.0, 6.0, 12.0])
    wanted = {
        mrsim.average(cost): costs.mean(),
        mrsim.average(cost, weights=shares): torch.tensor(5.0),
        mrsim.worst(cost): costs.max(),
        mrsim.worst(cost, power=2): costs.square().mean().sqrt(),
        mrsim.worst(cost, power=5.0): (costs**5).mean() ** (1 / 5),
        mrsim.worst(cost, power=400.0): (costs / 12).pow(400).mean() ** (1 / 400) * 12,
    }
    for objective, value in wanted.items():
        slope, made = grad_and_value(objective, argnums=1)(tissues, x, 0.1)
        torch.testing.assert_close(made, value)
        torch.testing.assert_close(slope, value / 3)  # they are proportional to x
    small, slope = 1e-6 * costs, 1e-6 * x  # smaller than 1, all of them
    torch.testing.assert_close(
        mrsim.worst(cost, power=3.0)(tissues, slope, 0.1),
        small.pow(3).mean() ** (1 / 3),
    )
    one = mrsim.worst(cost, power=2)(mrsim.expand(Tissue(T1=1.0, T2=0.1), 1), x, 0.1)
    torch.testing.assert_close(one, torch.tensor(3.0))


@pytest.mark.parametrize("power", [None, 4.0])
def test_worst_of_an_unidentifiable_tissue_is_inf_with_a_finite_gradient(
    power: float | None,
) -> None:
    tissues = Tissue(
        T1=torch.ones(2), T2=torch.tensor([0.1, 0.1]), M0=torch.arange(2.0)
    )

    def cost(tissue: Tissue, x: Tensor) -> Tensor:
        bound = mrsim.crlb(spiral, "M0", "T2", sigma=0.01)
        return bound(mrsim.replace(tissue, df=torch.zeros(())), Samples(x=x)).T2

    objective = mrsim.worst(cost, power=power)
    assert objective(tissues, TIMES.x) == math.inf
    assert (grad(objective, argnums=1)(tissues, TIMES.x) == 0).all()
    assert grad(mrsim.average(cost), argnums=1)(tissues, TIMES.x).isfinite().all()


def test_smooth_worst_of_nothing_is_zero() -> None:
    tissues = Tissue(T1=torch.ones(2), T2=torch.tensor([0.1, 0.1]))
    objective = mrsim.worst(lambda tissue, x: x * tissue.T1, power=4.0)
    assert objective(tissues, torch.tensor(0.0)) == 0
    assert grad(objective, argnums=1)(tissues, torch.tensor(0.0)).isfinite()


# ---------------------------------------------------------------- bad calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nuisance": ["T2"]}, "given twice"),
        ({"prior": {"T1": 0.1}}, "prior names .'T1'.*nuisance"),
        ({"weights": torch.ones(3)}, r"weights must be a scalar or have shape \(5,\)"),
        ({"sigma": torch.ones(2)}, r"sigma must be .*got \(2,\)"),
        ({"prior": {"T2": torch.ones(2)}}, r"prior of T2 must be a scalar"),
    ],
)
def test_bad_options_say_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mrsim.crlb(monoexp, "M0", "T2", **{"sigma": 0.1, **options})(VOXEL, TIMES)


def test_unknown_names_and_outputs_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="no argument has a field 'T3'"):
        mrsim.crlb(monoexp, "T3", sigma=0.1)(VOXEL, TIMES)

    def pair(v: Voxel, seq: Samples) -> tuple[Tensor, Tensor]:
        return monoexp(v, seq), seq.x

    with pytest.raises(TypeError, match="one tensor, the signal, got tuple"):
        mrsim.crlb(pair, "T2", sigma=0.1)(VOXEL, TIMES)
