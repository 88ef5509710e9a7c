"""jac and jvp inside other transforms, on meta tensors, in single precision."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from spin_models import SEQ, TISSUE, Spin, central, close, magnitude, signal
from torch import Tensor
from torch.func import grad, hessian, vmap

import mrsim
from mrsim import Tissue, jac, jvp, tree, value_and_jac


def loop(f: Any, *batch: Any) -> Any:
    """Apply f to each item and stack the results."""
    size = len(tree.tree_leaves(batch)[0])
    items = [f(*tree.tree_map(lambda v, i=i: v[i], batch)) for i in range(size)]
    return tree.tree_map(lambda *v: torch.stack(v), *items)


class TestCompositions:
    batch = mrsim.grid(TISSUE, T1=[0.5, 1.0], T2=[0.05, 0.1, 0.2])
    names = ("T1", "T2", "M0", "df")

    @pytest.mark.parametrize("mode", ["forward", "reverse"])
    def test_vmap_equals_a_loop_of_the_other_mode(self, mode: Any) -> None:
        other = "reverse" if mode == "forward" else "forward"
        one = jac(signal, *self.names, mode=other)
        mapped = vmap(jac(signal, *self.names, mode=mode), in_dims=(0, None))
        close(mapped(self.batch, SEQ), loop(lambda t: one(t, SEQ), self.batch))

    def test_vmap_over_both_arguments(self) -> None:
        trains = Spin(TE=torch.rand(6, 4) + 0.01)
        J = vmap(jac(signal, "T2", "TE"))(self.batch, trains)
        close(J, loop(jac(signal, "T2", "TE", mode="reverse"), self.batch, trains))

    def test_chunks_bound_how_much_travels_at_once(self) -> None:
        sizes: list[int] = []

        class Probe(torch.autograd.Function):
            """Nothing, but it notes how many travel through it."""

            @staticmethod
            def forward(x: Tensor) -> Tensor:
                return x.clone()

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                pass

            @staticmethod
            def backward(_: Any, g: Tensor) -> Tensor:
                return Probe.apply(g)

            @staticmethod
            def jvp(_: Any, t: Tensor) -> Tensor:
                return Probe.apply(t)

            @staticmethod
            def vmap(info: Any, dims: Any, x: Tensor) -> Any:
                sizes.append(info.batch_size)
                return x.clone(), dims[0]

        def probed(seq: Spin) -> Tensor:
            return Probe.apply(Probe.apply(seq.TE).sin()[:2])

        for mode, all_at_once in (("forward", 3), ("reverse", 2)):
            for chunk, most in ((None, all_at_once), (1, 1), (2, 2)):
                sizes.clear()
                f = jac(probed, "TE", mode=mode, chunk_size=chunk)
                close(f(SEQ).TE, SEQ.TE.cos().diag()[:2])
                assert max(sizes) == most

    def test_chunks_under_vmap(self) -> None:
        f = jac(signal, *self.names)
        g = jac(signal, *self.names, chunk_size=2)
        close(*(vmap(h, in_dims=(0, None))(self.batch, SEQ) for h in (f, g)))

    @pytest.mark.parametrize("inner", ["forward", "reverse"])
    @pytest.mark.parametrize("outer", ["forward", "reverse"])
    def test_jac_of_jac_is_the_second_derivative(self, inner: Any, outer: Any) -> None:
        H = jac(jac(magnitude, "T1", "T2", mode=inner), "T2", mode=outer)(TISSUE, SEQ)
        wanted = hessian(lambda t: magnitude(tree.put(TISSUE, "T2", t), SEQ))(TISSUE.T2)
        close(H.T2.T2, wanted)
        other = jac(jac(magnitude, "T2"), "T1")(TISSUE, SEQ)
        close(H.T2.T1, other.T1.T2)

    def test_third_derivative(self) -> None:
        third = jac(jac(jac(signal, "T2"), "T2", mode="reverse"), "T2")(TISSUE, SEQ)

        def second(T2: Tensor) -> Tensor:
            x = tree.put(TISSUE, "T2", T2)
            return jac(jac(signal, "T2"), "T2")(x, SEQ).T2.T2

        fd = central(second, TISSUE.T2)
        torch.testing.assert_close(third.T2.T2.T2, fd, rtol=1e-6, atol=1e-6)

    def test_gradient_of_a_criterion_of_the_jacobian(self) -> None:
        def information(seq: Spin) -> Tensor:
            J = jac(signal, "T1", "T2")(TISSUE, seq)
            return (J.T2.abs() ** 2).sum() / (J.T1.abs() ** 2).sum()

        g = grad(information)(SEQ)
        for k in range(3):
            e = torch.eye(3)[k]
            fd = central(
                lambda v, e=e: information(Spin(TE=SEQ.TE + v * e)), torch.tensor(0.0)
            )
            torch.testing.assert_close(g.TE[k], fd, rtol=1e-6, atol=1e-6)
        close(vmap(grad(information))(mrsim.expand(SEQ, 2)).TE[1], g.TE)

    def test_inputs_are_left_alone(self) -> None:
        before = [v.clone() for v in tree.tree_leaves((TISSUE, SEQ))]
        jac(signal, "T2", "phase")(TISSUE, SEQ)
        assert all(map(torch.equal, tree.tree_leaves((TISSUE, SEQ)), before))
        assert SEQ.phase is None


class TestFloat32:
    """A 0-d float32 dual that meets a Python number would become float64."""

    tissue = mrsim.to(TISSUE, dtype=torch.float32)
    seq = mrsim.to(SEQ, dtype=torch.float32)

    @pytest.mark.parametrize("mode", ["forward", "reverse"])
    @pytest.mark.parametrize("f", [signal, magnitude])
    def test_stays_single(self, f: Any, mode: Any) -> None:
        value, J = value_and_jac(f, "T1", "T2", "M0", mode=mode)(self.tissue, self.seq)
        wanted = torch.complex64 if f is signal else torch.float32
        assert {v.dtype for v in tree.tree_leaves((value, J))} == {wanted}
        double = jac(f, "T1", "T2", "M0")(TISSUE, SEQ)
        for a, b in zip(tree.tree_leaves(J), tree.tree_leaves(double), strict=True):
            torch.testing.assert_close(a.to(b.dtype), b, rtol=1e-4, atol=1e-5)

    def test_stays_single_with_constants_and_scalars(self) -> None:
        def f(x: Tissue) -> Tensor:
            one = torch.ones((), dtype=torch.float32)
            return (2 * x.T2 + 1.0 - one * x.T2) * math.pi / 3

        assert jac(f, "T2")(self.tissue).T2.dtype == torch.float32
        assert jvp(f, {"T2": 1.0})(self.tissue)[1].dtype == torch.float32
        batch = mrsim.expand(self.tissue, 3)
        assert vmap(jac(f, "T2"))(batch).T2.dtype == torch.float32
        H = vmap(jac(jac(f, "T2"), "T1"))(batch)
        assert H.T1.T2.dtype == torch.float32


class TestJvp:
    @given(st.floats(-2, 2), st.floats(-2, 2))
    def test_is_the_jacobian_times_the_direction(self, a: float, b: float) -> None:
        value, move = jvp(signal, {"T2": a, "df": b})(TISSUE, SEQ)
        J = jac(signal, "T2", "df")(TISSUE, SEQ)
        close(value, signal(TISSUE, SEQ))
        close(move, a * J.T2 + b * J.df)

    def test_directions_broadcast_promote_and_span_arguments(self) -> None:
        move = jvp(signal, {"B1": 2.0, "TE": 1e-3, "phase": torch.arange(3.0)})(
            TISSUE, SEQ
        )[1]
        J, K = jac(signal, "B1", "TE", "phase")(TISSUE, SEQ)
        wanted = (
            2 * J.B1
            + 1e-3 * K.TE.sum(1)
            + K.phase @ torch.arange(3.0).cfloat().to(K.phase)
        )
        close(move, wanted)

    def test_under_vmap_over_directions(self) -> None:
        moves = vmap(lambda v: jvp(signal, {"T2": v})(TISSUE, SEQ)[1])(
            torch.tensor([1.0, 2.0])
        )
        close(moves[1], 2 * moves[0])

    def test_directions_take_the_type_of_their_field(self) -> None:
        wanted = jvp(signal, {"T2": 2.0, "TE": 1.0})(TISSUE, SEQ)
        close(jvp(signal, {"T2": 2, "TE": torch.tensor(1)})(TISSUE, SEQ), wanted)
        single = mrsim.to(TISSUE, torch.float32), mrsim.to(SEQ, torch.float32)
        double = {"T2": torch.tensor(2.0), "TE": torch.ones(3)}
        made = jvp(signal, double)(*single)
        assert [x.dtype for x in made] == [torch.complex64] * 2
        torch.testing.assert_close(
            made[1], wanted[1].to(torch.complex64), rtol=1e-5, atol=1e-5
        )

    def test_fields_may_be_views_of_one_number(self) -> None:
        flat = Spin(TE=torch.full((3,), 0.05))
        view = tree.put(flat, "TE", torch.tensor(0.05).expand(3))
        wanted = jvp(signal, {"TE": 1.0, "T2": 2.0})(TISSUE, flat)
        close(jvp(signal, {"TE": 1.0, "T2": 2.0})(TISSUE, view), wanted)
        for mode in ("forward", "reverse"):
            f = jac(signal, "TE", "T2", mode=mode)
            close(f(TISSUE, view), f(TISSUE, flat))

    def test_a_move_leaves_its_inputs_alone(self) -> None:
        step = torch.ones(3)
        before = tree.tree_map(torch.clone, (TISSUE, SEQ))
        jvp(signal, {"TE": step, "B1": 1.0})(TISSUE, SEQ)
        close((TISSUE, SEQ), before)
        assert step.tolist() == [1.0, 1.0, 1.0]

    def test_bad_shapes_raise(self) -> None:
        with pytest.raises(RuntimeError, match="expand"):
            jvp(signal, {"TE": torch.ones(5)})(TISSUE, SEQ)


class TestMeta:
    """Shapes and dtypes without numbers."""

    tissue, seq = (mrsim.to(x, device="meta") for x in (TISSUE, SEQ))

    @pytest.mark.parametrize("mode", ["forward", "reverse"])
    def test_jacobians(self, mode: Any) -> None:
        value, J = value_and_jac(signal, "T2", "TE", mode=mode)(self.tissue, self.seq)
        made = (value, J[0].T2, J[1].TE)
        assert [x.shape for x in made] == [(3,), (3,), (3, 3)]
        assert {x.device.type for x in made} == {"meta"}
        assert {x.dtype for x in made} == {torch.complex128}

    def test_directions(self) -> None:
        made = jvp(signal, {"T2": 1.0, "TE": 2.0})(self.tissue, self.seq)
        assert [x.shape for x in made] == [(3,), (3,)]
        assert {x.device.type for x in made} == {"meta"}
