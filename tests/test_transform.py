"""Derivatives by field name: values, shapes, compositions and messages."""

import math
from typing import Any

import pytest
import strategies
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, jac, jvp, neutral, record, tree, value_and_jac


@record
class Spin:
    """A sequence: samples at equal distances, one of its fields optional."""

    TE: Tensor  # (echo,) [s]
    phase: Tensor | None = neutral(0.0, like="TE")  # (echo,) [rad]
    flip: Tensor | None = None


@record
class Pool:
    """A second pool."""

    k: Tensor  # () [1/s]
    T2: Tensor | None = neutral(0.5)


@record
class Pair:
    """A tissue with a pool inside."""

    T1: Tensor
    pool: Pool


def signal(tissue: Tissue, seq: Spin) -> Tensor:
    """A damped, recovering, precessing spin; complex."""
    amplitude = 1 if tissue.M0 is None else tissue.M0
    angle = 0 if seq.phase is None else seq.phase
    if tissue.df is not None:
        angle = angle + 2 * math.pi * tissue.df * seq.TE
    envelope = (1 - (-seq.TE[-1] / tissue.T1).exp()) * (-seq.TE / tissue.T2).exp()
    if tissue.B1 is not None:
        envelope = envelope * (tissue.B1 * math.pi / 2).sin()
    value = amplitude * envelope
    turn = angle + torch.zeros_like(value)
    # torch.polar's reverse mode is NaN at values of 1e-320
    return torch.complex(value * turn.cos(), value * turn.sin())


def magnitude(tissue: Tissue, seq: Spin) -> Tensor:
    """Its squared magnitude; abs() would fail in torch's jacrev(jacfwd)."""
    s = signal(tissue, seq)
    return s.real**2 + s.imag**2


TISSUE = Tissue(T1=1.0, T2=0.1, df=3.0)
SEQ = Spin(TE=[0.01, 0.05, 0.2])


def close(a: Any, b: Any, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    """Require equal structure and close leaves of equal dtype."""
    (x, s), (y, t) = tree.tree_flatten(a), tree.tree_flatten(b)
    assert s == t
    torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


def loop(f: Any, *batch: Any) -> Any:
    """Apply f to each item and stack the results."""
    size = len(tree.tree_leaves(batch)[0])
    items = [f(*tree.tree_map(lambda v, i=i: v[i], batch)) for i in range(size)]
    return tree.tree_map(lambda *v: torch.stack(v), *items)


def central(f: Any, x: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of f along a scalar."""
    return (f(x + step) - f(x - step)) / (2 * step)


class TestJac:
    def test_is_the_derivative(self) -> None:
        J = jac(signal, "T1", "T2", "df")(TISSUE, SEQ)
        assert J.M0 is None
        for name in ("T1", "T2", "df"):
            fd = central(
                lambda v, n=name: signal(tree.put(TISSUE, n, v), SEQ),
                tree.get(TISSUE, name),
            )
            assert tree.get(J, name).shape == (3,)
            torch.testing.assert_close(tree.get(J, name), fd, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("f", [signal, magnitude])
    @pytest.mark.parametrize("chunk", [None, 1, 2, 100])
    @pytest.mark.parametrize(
        "names", [("T1",), ("df", "T2"), ("TE",), ("T2", "TE"), ()]
    )
    def test_forward_equals_reverse(
        self, f: Any, chunk: int | None, names: Any
    ) -> None:
        forward = value_and_jac(f, *names, chunk_size=chunk)(TISSUE, SEQ)
        reverse = value_and_jac(f, *names, mode="reverse", chunk_size=chunk)(
            TISSUE, SEQ
        )
        close(forward, reverse)
        close(forward[0], f(TISSUE, SEQ))
        close(forward[1], jac(f, *names)(TISSUE, SEQ))

    @given(strategies.tissues(optional=True), st.lists(strategies.times, min_size=1))
    def test_forward_equals_reverse_anywhere(self, x: Tissue, TE: list[float]) -> None:
        seq = Spin(TE=TE)
        names = ("T1", "T2", "M0", "B1", "df")
        close(jac(signal, *names)(x, seq), jac(signal, *names, mode="reverse")(x, seq))

    def test_agrees_with_torch(self) -> None:
        J = jac(magnitude, "T2")(TISSUE, SEQ).T2
        f = lambda t: magnitude(mrsim.replace(TISSUE, T2=t), SEQ)  # noqa: E731
        close(J, jacrev(f)(TISSUE.T2))
        close(J, jacfwd(f)(TISSUE.T2))

    def test_shape_is_output_then_field(self) -> None:
        J = jac(signal, "TE")(TISSUE, SEQ)
        assert J.TE.shape == (3, 3)
        fd = central(
            lambda v: signal(TISSUE, Spin(TE=SEQ.TE + v * torch.eye(3)[1])),
            torch.tensor(0.0),
        )
        torch.testing.assert_close(J.TE[:, 1], fd, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("mode", ["forward", "reverse"])
    def test_axes_of_outputs_and_fields_are_kept(self, mode: Any) -> None:
        @record
        class Table:
            a: Tensor  # (2, 3)
            b: Tensor  # (4,)

        def f(x: Table) -> Tensor:
            return x.a.sin()[:, :, None, None] * torch.stack([x.b, x.b**2])

        table = Table(a=torch.rand(2, 3), b=torch.rand(4))
        value, J = value_and_jac(f, "b", "a", mode=mode)(table)
        assert value.shape == (2, 3, 2, 4)
        wanted = jacrev(lambda a, b: f(Table(a=a, b=b)), argnums=(0, 1))
        close((J.a, J.b), wanted(table.a, table.b))

    def test_names_in_both_arguments_give_both_records(self) -> None:
        first, second = jac(signal, "TE", "T2")(TISSUE, SEQ)
        assert isinstance(first, Tissue)
        assert isinstance(second, Spin)
        close(first, jac(signal, "T2")(TISSUE, SEQ))
        close(second, jac(signal, "TE")(TISSUE, SEQ))

    def test_order_and_repetition_of_names_do_not_matter(self) -> None:
        close(
            jac(signal, "T1", "T2")(TISSUE, SEQ),
            jac(signal, "T2", "T1", "T2")(TISSUE, SEQ),
        )

    def test_no_names_are_all_present_leaves_of_the_first(self) -> None:
        J = jac(signal)(TISSUE, SEQ)
        close(J, jac(signal, "T1", "T2", "df")(TISSUE, SEQ))
        assert J.B1 is None

    def test_outputs_may_be_trees(self) -> None:
        def both(tissue: Tissue, seq: Spin) -> dict[str, Tensor]:
            s = signal(tissue, seq)
            return {"s": s, "last": s[-1].abs(), "constant": torch.ones(2)}

        for mode in ("forward", "reverse"):
            J = jac(both, "T2", mode=mode)(TISSUE, SEQ)
            close(J.T2["s"], jac(signal, "T2")(TISSUE, SEQ).T2)
            assert J.T2["last"].shape == ()
            assert J.T2["constant"].tolist() == [0.0, 0.0]

    def test_extra_arguments_need_not_be_records(self) -> None:
        def f(t: Tensor, tissue: Tissue, scale: float, index: Tensor) -> Tensor:
            return scale * (-t / tissue.T2).exp()[index]

        args = (torch.tensor([0.0, 0.1]), TISSUE, 2.0, torch.tensor([1]))
        J = jac(f, "T2")(*args)
        torch.testing.assert_close(J.T2, torch.tensor([2 * math.exp(-1) / 0.1]))
        close(J, jac(f, "T2", mode="reverse")(*args))


class TestPromotion:
    @pytest.mark.parametrize(("name", "value"), [("M0", 1.0), ("B1", 1.0)])
    def test_absent_is_neutral(self, name: str, value: float) -> None:
        full = mrsim.replace(TISSUE, **{name: value})
        close(jac(signal, name)(TISSUE, SEQ), jac(signal, name)(full, SEQ))
        assert tree.get(jac(signal, name)(TISSUE, SEQ), name).abs().max() < 2

    def test_takes_the_shape_of_its_model(self) -> None:
        J = jac(signal, "phase")(TISSUE, SEQ)
        assert J.phase is not None
        close(J.phase, torch.diag(1j * signal(TISSUE, SEQ)))

    def test_works_under_vmap(self) -> None:
        batch = mrsim.grid(Tissue(T1=1.0, T2=0.1), T2=[0.05, 0.1, 0.2])
        J = vmap(jac(signal, "B1", "M0"), in_dims=(0, None))(batch, SEQ)
        assert J.B1.shape == (3, 3)
        close(J.M0, vmap(signal, in_dims=(0, None))(batch, SEQ))


class TestNested:
    @staticmethod
    def f(pair: Pair, seq: Spin) -> Tensor:
        T2 = 0.5 if pair.pool.T2 is None else pair.pool.T2
        return (-seq.TE * pair.pool.k).exp() / pair.T1 + torch.exp(-seq.TE / T2)

    def test_dotted_names(self) -> None:
        pair = Pair(T1=2.0, pool=Pool(k=3.0))
        J = jac(self.f, "pool.k", "pool.T2")(pair, SEQ)
        assert J.T1 is None
        close(J.pool.k, -SEQ.TE * (-3 * SEQ.TE).exp() / 2)
        close(J.pool.T2, (-SEQ.TE / 0.5).exp() * SEQ.TE / 0.25)

    def test_all_leaves(self) -> None:
        J = jac(self.f)(Pair(T1=2.0, pool=Pool(k=3.0)), SEQ)
        assert J.T1 is not None
        assert J.pool.k is not None
        assert J.pool.T2 is None


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


class TestMessages:
    def test_unknown_name(self) -> None:
        with pytest.raises(
            ValueError,
            match=r"no argument has a field 'T3'; .*Tissue\(T1, T2, .*\) and Spin\(TE",
        ):
            jac(signal, "T3")(TISSUE, SEQ)

    def test_no_record_at_all(self) -> None:
        with pytest.raises(
            ValueError, match="'T2'; the records given are none: pass a rec"
        ):
            jac(torch.sin, "T2")(torch.ones(1))
        with pytest.raises(ValueError, match=r"got Tensor; use torch\.func\.jacfwd"):
            jac(torch.sin)(torch.ones(1))

    def test_ambiguous_name(self) -> None:
        with pytest.raises(
            ValueError, match=r"'T1' is a field of 2 arguments, .*\) and T.*close over"
        ):
            jac(lambda a, b: a.T1 * b.T1, "T1")(TISSUE, TISSUE)
        with pytest.raises(ValueError, match="2 arguments"):
            jvp(lambda a, b: a.T1 * b.T1, {"T1": 1.0})(TISSUE, TISSUE)

    def test_a_record_is_no_parameter(self) -> None:
        with pytest.raises(
            ValueError, match=r"no argument has a field 'pool'; .*pool\.k"
        ):
            jac(TestNested.f, "pool")(Pair(T1=2.0, pool=Pool(k=3.0)), SEQ)

    def test_absent_without_neutral_value(self) -> None:
        with pytest.raises(
            ValueError, match=r"Spin\.flip is None and has no neutral value"
        ):
            jac(signal, "flip")(TISSUE, SEQ)

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (1, r"Tissue: T1 must be .* got the int 1; write the float 1\.0"),
            (torch.tensor(1), r"got torch\.int64"),
        ],
    )
    @pytest.mark.parametrize(
        "make", [lambda f: jac(f, "T1"), lambda f: jvp(f, {"T1": 1.0})]
    )
    def test_integers(self, make: Any, value: Any, said: str) -> None:
        with pytest.raises(TypeError, match=said):
            make(signal)(Tissue(T1=value, T2=0.1), SEQ)

    def test_unknown_mode(self) -> None:
        with pytest.raises(ValueError, match="'forward' or 'reverse', got 'fwd'"):
            jac(signal, "T1", mode="fwd")


@settings(max_examples=5)
@given(strategies.tissues())
def test_central_differences_anywhere(x: Tissue) -> None:
    seq = Spin(TE=x.T2 * torch.tensor([0.3, 1.0, 2.0]))
    J = jac(magnitude, "T2")(x, seq).T2 * x.T2
    fd = central(
        lambda v: magnitude(tree.put(x, "T2", x.T2 * v), seq), torch.tensor(1.0)
    )
    torch.testing.assert_close(J, fd, rtol=1e-6, atol=1e-9)
