"""Derivatives by field name: values, shapes, compositions and messages."""

import math
from typing import Any

import pytest
import strategies
import torch
from hypothesis import given, settings, strategies as st
from spin_models import SEQ, TISSUE, Spin, central, close, magnitude, signal
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, jac, jvp, neutral, record, tree, value_and_jac


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
