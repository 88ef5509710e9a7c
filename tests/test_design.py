"""Sequence design: limits are kept, optima are found, failures are explained."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from models import Samples, Voxel, ir, monoexp
from torch import Tensor
from torch.func import grad

import mrsim
from mrsim import Tissue, design, epg
from mrsim.units import deg, ms

TRAIN = epg.FSE(flip=[80 * deg] * 6, esp=8 * ms)
LIMITS: dict[str, Any] = {
    "bounds": {"flip": (10 * deg, 180 * deg)},
    "constraints": (design.rms("flip", 60 * deg),),
}


def bound(q: epg.FSE) -> Tensor:
    tissue = Tissue(T1=0.9, T2=70 * ms)
    return mrsim.crlb(epg.fse, "M0", "T2", sigma=1.0)(tissue, q).T2


def bowl(s: Samples) -> Tensor:
    """A quadratic with its minimum at 1, 2, 3, …"""
    return ((s.x - torch.arange(1.0, len(s.x) + 1)) ** 2).sum() + 1


class TestMinimise:
    @pytest.mark.parametrize("method", ["SLSQP", "trust-constr", "Adam", "LBFGS"])
    def test_every_method_finds_a_minimum(self, method: str) -> None:
        start = Samples(x=[5.0, -3.0, 0.5])
        found = design.minimise(bowl, start, "x", method=method, iterations=500)
        torch.testing.assert_close(
            found.record.x, torch.tensor([1.0, 2.0, 3.0]), atol=1e-3, rtol=0.0
        )
        assert found.start_value == pytest.approx(float(bowl(start)))
        assert found.value == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.parametrize("method", ["SLSQP", "trust-constr", "Adam"])
    def test_limits_are_kept(self, method: str) -> None:
        found = design.minimise(
            bound, TRAIN, "flip", **LIMITS, method=method, iterations=60
        )
        flip = found.record.flip
        assert (flip >= 10 * deg).all()
        assert (flip <= 180 * deg).all()
        assert flip.square().mean().sqrt() <= 60 * deg * (1 + 1e-6)
        assert found.violation <= 1e-6
        assert found.value < float(
            bound(mrsim.replace(TRAIN, flip=60 * deg * torch.ones(6)))
        )

    def test_active_bound_is_exact(self) -> None:
        limits = {"x": (torch.tensor([2.0, 0.0]), torch.tensor([4.0, 1.5]))}
        found = design.minimise(bowl, Samples(x=[3.0, 1.0]), "x", bounds=limits)
        assert found.record.x.tolist() == [2.0, 1.5]

    def test_constraints_together(self) -> None:
        made = design.minimise(
            bowl,
            Samples(x=[0.0] * 4),
            "x",
            constraints=(
                design.total("x", 4.0),
                design.slew("x", 0.5),
                design.at_most(lambda s: s.x[3], 1.4),
            ),
        ).record.x
        assert made.sum() <= 4 + 1e-6
        assert made.diff().abs().max() <= 0.5 + 1e-6
        assert made[3] <= 1.4 + 1e-6
        inside = torch.tensor([0.25, 0.75, 1.25, 1.4])
        assert bowl(Samples(x=made)) <= bowl(Samples(x=inside)) + 1e-9

    def test_several_fields_move_and_others_stay(self) -> None:
        limits = {"flip": (1.0, math.pi), "esp": (5 * ms, 20 * ms)}
        found = design.minimise(
            bound, TRAIN, "flip", "esp", bounds=limits, iterations=30
        )
        assert found.value < found.start_value
        assert found.record.esp != TRAIN.esp
        only = design.minimise(
            bound, TRAIN, "esp", bounds={"esp": limits["esp"]}, iterations=30
        )
        assert torch.equal(only.record.flip, TRAIN.flip)
        gradient = grad(bound)(only.record).esp
        edge = only.record.esp in (torch.tensor(5 * ms), torch.tensor(20 * ms))
        assert edge or abs(float(gradient)) * 8 * ms < 1e-3 * only.value

    def test_absent_field_starts_from_its_neutral_value(self) -> None:
        found = design.minimise(
            bound, TRAIN, "excitation", bounds={"excitation": (0.5, math.pi)}
        )
        assert found.record.excitation is not None
        assert found.value <= found.start_value

    def test_single_precision_stays(self) -> None:
        start = mrsim.to(TRAIN, dtype=torch.float32)
        tissue = mrsim.to(Tissue(T1=0.9, T2=70 * ms), dtype=torch.float32)

        def cost(q: epg.FSE) -> Tensor:
            return mrsim.crlb(epg.fse, "M0", "T2", sigma=1.0)(tissue, q).T2

        found = design.minimise(cost, start, "flip", **LIMITS, iterations=30)
        assert found.record.flip.dtype == torch.float32
        assert found.record.flip.square().mean().sqrt() <= 60 * deg * (1 + 1e-5)
        exact = design.minimise(bound, TRAIN, "flip", **LIMITS, iterations=30)
        assert found.value == pytest.approx(exact.value, rel=1e-3)

    def test_history_tells_every_iteration(self) -> None:
        found = design.minimise(bound, TRAIN, "flip", **LIMITS)
        history = found.history
        assert len(history.value) == len(history.gradient) == len(history.violation)
        assert len(history.value) > 1
        feasible = history.value[history.violation <= 1e-6]
        assert found.value <= float(feasible.min()) * (1 + 1e-12)
        assert history.gradient[-1] < history.gradient[0]

    def test_resumes_from_a_checkpoint(self, tmp_path: Path) -> None:
        path, calls = tmp_path / "design.pt", []

        def counted(q: epg.FSE) -> Tensor:
            calls.append(1)
            return bound(q)

        design.minimise(counted, TRAIN, "flip", **LIMITS, iterations=3, checkpoint=path)
        early = len(calls)
        resumed = design.minimise(counted, TRAIN, "flip", **LIMITS, checkpoint=path)
        again = design.minimise(counted, TRAIN, "flip", **LIMITS, checkpoint=path)
        whole = design.minimise(bound, TRAIN, "flip", **LIMITS)
        assert resumed.value == pytest.approx(whole.value, rel=1e-6)
        assert len(resumed.history.value) > 3
        assert again.value == resumed.value
        assert len(calls) < early + resumed.evaluations + 10
        with pytest.raises(ValueError, match="checkpoint"):
            design.minimise(
                bound, epg.FSE(flip=[1.0] * 6, esp=0.01), "flip", checkpoint=path
            )

    def test_shows_progress(self, capsys: pytest.CaptureFixture[str]) -> None:
        design.minimise(bowl, Samples(x=[3.0]), "x", progress=True)
        assert "value" in capsys.readouterr().err

    def test_steps_back_where_nothing_is_finite(self) -> None:
        def cost(s: Samples) -> Tensor:
            return s.x.log().square().sum() + 1

        found = design.minimise(cost, Samples(x=[0.05]), "x")
        assert found.record.x == pytest.approx(1.0, abs=1e-3)


class TestRefusals:
    @pytest.mark.filterwarnings("ignore:crlb. the variance is inf for B1")
    def test_singular_start(self) -> None:
        still = epg.FSE(flip=[180 * deg] * 6, esp=8 * ms)

        def cost(q: epg.FSE) -> Tensor:
            tissue = Tissue(T1=0.9, T2=70 * ms)
            return mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=1.0)(tissue, q).B1

        with pytest.raises(ValueError, match=r"inf at the start.*singular"):
            design.minimise(cost, still, "flip", **LIMITS)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "Newton"}, "method must be one of"),
            ({"bounds": {"TR": (0, 1)}}, "'TR'"),
            ({"bounds": {"x": (2, 1)}}, "lower ≤ upper"),
            ({"bounds": {"x": (torch.zeros(3), None)}}, "its shape"),
        ],
    )
    def test_bad_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            design.minimise(bowl, Samples(x=[1.0, 2.0]), "x", **options)

    def test_unknown_field_and_vector_objective(self) -> None:
        with pytest.raises(ValueError, match="'TE'"):
            design.minimise(bowl, Samples(x=[1.0]), "TE")
        with pytest.raises(ValueError, match="one real number"):
            design.minimise(lambda s: s.x, Samples(x=[1.0, 2.0]), "x")

    def test_null_of_an_inversion_is_not_an_optimum(self) -> None:
        """Two free inversion times walk to the null, where M0 is lost."""
        voxel = Voxel(M0=1.0, T1=1.0)

        def cost(s: Samples) -> Tensor:
            variance = mrsim.crlb(ir, "M0", "T1", sigma=0.01)(voxel, s)
            return variance.T1 + variance.M0

        limits = {"x": (0.0, 5.0)}
        found = design.minimise(cost, Samples(x=[0.3, 2.0]), "x", bounds=limits)
        assert math.isfinite(found.value)
        assert (found.record.x - math.log(2)).abs().max() > 0.1


class TestMultistart:
    def test_finds_the_deeper_of_two_minima(self) -> None:
        def cost(s: Samples) -> Tensor:
            return (s.x**4 - 2 * s.x**2 + 0.3 * s.x).sum() + 3

        start, limits = Samples(x=[0.9, 0.9]), {"x": (-2.0, 2.0)}
        assert design.minimise(cost, start, "x", bounds=limits).record.x.min() > 0
        starts = design.random_starts(
            start,
            "x",
            bounds=limits,
            count=32,
            generator=torch.Generator().manual_seed(1),
        )
        found = design.multistart(cost, starts, "x", bounds=limits, polish=3)
        assert found[0].record.x.max() < 0
        assert [d.value for d in found] == sorted(d.value for d in found)

    def test_random_starts_are_feasible_and_differ(self) -> None:
        starts = design.random_starts(
            TRAIN,
            "flip",
            **LIMITS,
            count=64,
            generator=torch.Generator().manual_seed(0),
        )
        assert starts.flip.shape == (64, 6)
        assert (starts.flip.square().mean(1).sqrt() <= 60 * deg * (1 + 1e-9)).all()
        assert (starts.flip >= 10 * deg).all()
        assert torch.pdist(starts.flip).min() > 1e-6

    def test_drops_singular_starts(self) -> None:
        starts = mrsim.expand(Samples(x=[0.0, 0.0]), 3)
        starts = mrsim.replace(
            starts, x=torch.tensor([[0.0, 0.0], [0.01, 0.1], [0.1, 0.1]])
        )
        voxel = Voxel(M0=1.0, T2=0.08)

        def cost(s: Samples) -> Tensor:
            return mrsim.crlb(monoexp, "M0", "T2", sigma=0.01)(voxel, s).T2

        limits = {"x": (0.0, 1.0)}
        found = design.multistart(cost, starts, "x", bounds=limits, polish=3)
        assert found[0].record.x.sort()[0][1] == pytest.approx(0.0887086, rel=1e-4)
        with pytest.raises(ValueError, match="finite at none"):
            design.multistart(cost, mrsim.expand(Samples(x=[0.1, 0.1]), 4), "x")


class TestSpline:
    @given(st.integers(4, 12), st.integers(12, 60))
    def test_partition_of_unity_and_ends(self, k: int, n: int) -> None:
        ones = design.spline(torch.ones(k), n)
        torch.testing.assert_close(ones, torch.ones(n))
        c = torch.linspace(-1, 2, k) ** 2
        made = design.spline(c, n)
        torch.testing.assert_close(made[[0, -1]], c[[0, -1]])
        assert made.min() >= c.min() - 1e-12
        assert made.max() <= c.max() + 1e-12

    @given(st.integers(4, 12), st.integers(24, 60))
    def test_fit_recovers_coefficients(self, k: int, n: int) -> None:
        c = torch.sin(torch.arange(float(k)))
        torch.testing.assert_close(design.spline_fit(design.spline(c, n), k), c)

    def test_agrees_with_scipy(self) -> None:
        from scipy.interpolate import BSpline

        c = torch.tensor([0.3, -1.0, 2.0, 0.5, 1.5, -0.2])
        knots = [0.0] * 4 + [1 / 3, 2 / 3] + [1.0] * 4
        t = torch.linspace(0, 1, 31)
        wanted = torch.as_tensor(BSpline(knots, c.numpy(), 3)(t.numpy()))
        torch.testing.assert_close(design.spline(c, 31), wanted)

    def test_too_few_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 4"):
            design.spline(torch.ones(3), 10)
        with pytest.raises(ValueError, match="at most 5"):
            design.spline_fit(torch.ones(5), 6)
