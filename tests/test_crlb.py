"""Cramér-Rao bounds: definition, weights, sigma, priors, precision."""

import math
from typing import Any

import pytest
import torch
from crlb_models import TIMES, VOXEL, agree, scaled, spiral, stacked, variance
from models import Samples, Voxel, ir, monoexp
from torch import Tensor
from torch.func import grad, hessian

import mrsim
from mrsim import Tissue, epg
from mrsim.units import deg, ms

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
