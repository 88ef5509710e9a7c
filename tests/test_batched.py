"""Maps in bounded memory: equal to vmap, whatever the chunks."""

import sys
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.func import grad, jacfwd, vmap

import mrsim
from mrsim import Tissue, batched, jac, tree
from mrsim._batched import peak_bytes

LARGE = 2**40


def decay(tissue: Tissue, t: Tensor) -> Tensor:
    """A signal of one voxel."""
    s = (-t / tissue.T2).exp() * (1 - (-1 / tissue.T1).exp())
    return s if tissue.B1 is None else s * tissue.B1


T = torch.linspace(0, 0.3, 7)


def voxels(size: int, **full: float) -> Tissue:
    """Return a batch of different tissues."""
    x = mrsim.expand(Tissue(T1=1.0, T2=0.1, **full), size)
    return mrsim.replace(x, T2=torch.linspace(0.05, 0.2, size))


def close(a: Any, b: Any) -> None:
    """Require equal structure and leaves."""
    (x, s), (y, t) = tree.tree_flatten(a), tree.tree_flatten(b)
    assert s == t
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def spy(sizes: list[int]) -> Any:
    """Return decay, noting the size of each call's batch."""

    class Spy(torch.autograd.Function):
        generate_vmap_rule = False

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, int]:
            sizes.append(info.batch_size)
            return x.clone(), in_dims[0]

    return lambda tissue, t: decay(mrsim.replace(tissue, T2=Spy.apply(tissue.T2)), t)


class TestEqualsVmap:
    @pytest.mark.parametrize("size", [0, 1, 2, 4, 5, 7, 64, 101])
    @pytest.mark.parametrize("memory", [1, 1000, 5000, LARGE])
    def test_any_size_and_memory(self, size: int, memory: int) -> None:
        x = voxels(size)
        made = batched(decay, (0, None), memory)(x, T)
        assert made.shape == (size, 7)
        if size:
            close(made, vmap(decay, in_dims=(0, None))(x, T))

    @given(st.integers(1, 40), st.integers(1, 20_000))
    def test_anything(self, size: int, memory: int) -> None:
        x = voxels(size, B1=0.9)
        close(
            batched(decay, (0, None), memory)(x, T),
            vmap(decay, in_dims=(0, None))(x, T),
        )

    def test_in_dims(self) -> None:
        a, b = torch.rand(20, 3), torch.rand(20)
        f = lambda x, y: x.sin() * y  # noqa: E731
        close(batched(f, memory=300)(a, b), vmap(f)(a, b))
        close(batched(f, (None, 0), memory=300)(a[0], b), vmap(f, (None, 0))(a[0], b))
        close(batched(f, (0, None), memory=300)(a, 2.0), vmap(f, (0, None))(a, 2.0))

    def test_outputs_may_be_trees(self) -> None:
        f = mrsim.value_and_jac(decay, "T1", "T2", "M0")
        f = jac(decay, "T1", "T2", "B1")
        x = voxels(30)
        close(batched(f, (0, None), 4000)(x, T), vmap(f, in_dims=(0, None))(x, T))
        both = lambda v, t: {"s": decay(v, t), "sum": (v.T1 + v.T2, t[0] * v.T1)}  # noqa: E731
        close(batched(both, (0, None), 500)(x, T), vmap(both, in_dims=(0, None))(x, T))

    def test_single_precision_stays(self) -> None:
        x, t = mrsim.to((voxels(30), T), dtype=torch.float32)
        assert batched(decay, (0, None), 1000)(x, t).dtype == torch.float32


class TestMemory:
    @pytest.mark.parametrize("memory", [50_000, 500_000])
    @pytest.mark.parametrize("f", [decay, jac(decay, "T1", "T2"), jac(decay, "B1")])
    def test_a_chunk_stays_within_and_near_the_bytes(self, f: Any, memory: int) -> None:
        x = voxels(10_000)
        sizes: list[int] = []

        noted = lambda v, t: (spy(sizes)(v, t), f(v, t))  # noqa: E731
        batched(noted, (0, None), memory)(x, T)
        chunk = max(sizes)
        assert 4 < chunk < 10_000
        part = tree.tree_map(lambda v: v[:chunk].clone(), x)
        peak = peak_bytes(vmap(noted, in_dims=(0, None)), part, T)
        assert 0.7 * memory < peak <= memory

    def test_everything_at_once_if_it_fits(self) -> None:
        sizes: list[int] = []
        batched(spy(sizes), (0, None), LARGE)(voxels(50), T)
        assert sizes == [2, 4, 50]

    def test_one_item_at_least(self) -> None:
        sizes: list[int] = []
        batched(spy(sizes), (0, None), memory=1)(voxels(6), T)
        assert sizes == [2, 4] + [1] * 6

    def test_small_batches_are_not_probed(self) -> None:
        sizes: list[int] = []
        batched(spy(sizes), (0, None), memory=1)(voxels(4), T)
        assert sizes == [4]


class TestInsideTransforms:
    x, small = voxels(12), {"memory": 500}

    def test_grad(self) -> None:
        def loss(h: Any) -> Any:
            return grad(lambda x, t: h(x, t).square().sum(), (0, 1))(self.x, T)

        whole = vmap(decay, in_dims=(0, None))
        close(loss(batched(decay, (0, None), **self.small)), loss(whole))

    def test_grad_of_what_is_closed_over(self) -> None:
        def loss(t: Tensor) -> Tensor:
            return batched(lambda x: decay(x, t), **self.small)(self.x).sum()

        wanted = grad(lambda t: vmap(decay, in_dims=(0, None))(self.x, t).sum())(T)
        close(grad(loss)(T), wanted)

    def test_reverse_mode_stays_in_memory(self) -> None:
        def steps(x: Tensor, t: Tensor) -> Tensor:
            for _ in range(30):
                x = (x * t).sin()
            return x

        def peak(many: Any) -> int:
            x = torch.linspace(0, 1, 500)[:, None] * torch.ones(20)
            return peak_bytes(grad(lambda t: many(x, t).sum()), torch.ones(20))

        memory = 500_000
        whole = peak(vmap(steps, in_dims=(0, None)))
        within = peak(batched(steps, (0, None), memory))
        results = 500 * 20 * 8
        assert whole > 6 * memory
        assert within < memory + 6 * results

    def test_jacfwd_vmap_and_nesting(self) -> None:
        many = batched(decay, (0, None), **self.small)
        whole = vmap(decay, in_dims=(0, None))
        close(jacfwd(many, 1)(self.x, T), jacfwd(whole, 1)(self.x, T))
        ts = torch.stack([T, 2 * T])
        close(
            vmap(many, in_dims=(None, 0))(self.x, ts),
            vmap(whole, (None, 0))(self.x, ts),
        )
        nested = batched(lambda t: many(self.x, t), **self.small)
        close(
            nested(ts.repeat(5, 1)), vmap(lambda t: whole(self.x, t))(ts.repeat(5, 1))
        )

    def test_autograd(self) -> None:
        t = T.clone().requires_grad_()
        made = batched(decay, (0, None), **self.small)(self.x, t)
        made.sum().backward()
        assert t.grad is not None
        close(
            t.grad, grad(lambda t: vmap(decay, in_dims=(0, None))(self.x, t).sum())(T)
        )


class TestProgress:
    def test_bar_counts_chunks(self, capsys: pytest.CaptureFixture[str]) -> None:
        x = voxels(10)
        quiet = batched(decay, (0, None), memory=1)(x, T)
        assert not capsys.readouterr().err
        shown = batched(decay, (0, None), memory=1, progress=True)(x, T)
        assert "10/10" in capsys.readouterr().err
        close(shown, quiet)

    def test_missing_tqdm_teaches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tqdm", None)
        batched(decay, (0, None), memory=1)(voxels(10), T)
        with pytest.raises(ImportError, match=r'tqdm .* pip install "mrsim\[demo\]"'):
            batched(decay, (0, None), memory=1, progress=True)(voxels(10), T)


class TestMessages:
    def test_unequal_axes(self) -> None:
        x = Tissue(T1=1.0, T2=torch.linspace(0.05, 0.2, 20))
        with pytest.raises(
            ValueError,
            match=r"same first axis, got shapes \[\(\), \(20,\)\]; mrsim\.expand",
        ):
            batched(decay, (0, None))(x, T)
        with pytest.raises(ValueError, match="same first axis"):
            batched(torch.add)(torch.ones(20), torch.ones(21))

    def test_numbers_cannot_be_mapped(self) -> None:
        with pytest.raises(ValueError, match="same first axis"):
            batched(torch.add)(torch.ones(20), 1.0)

    @pytest.mark.parametrize("dims", [1, (0,), (0, 1), (None, None), (0, None, 0)])
    def test_in_dims(self, dims: Any) -> None:
        with pytest.raises(ValueError, match=r"0 or None for each of 2 arg.* got"):
            batched(decay, dims)(voxels(20), T)

    def test_errors_of_the_function_pass(self) -> None:
        def broken(_: Tensor) -> Tensor:
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            batched(broken)(torch.ones(20))


class TestPeakBytes:
    def test_counts_what_is_alive(self) -> None:
        x = torch.ones(1000)
        assert peak_bytes(lambda: x + 1) == 8000
        assert peak_bytes(lambda: (x + 1) + 1) == 16000
        assert peak_bytes(lambda: [x + 1 for _ in range(3)]) == 24000

    def test_frees_views_with_their_storage(self) -> None:
        def f(x: Tensor) -> Tensor:
            for _ in range(10):
                x = (x + 1)[::2].repeat(2)
            return x

        assert peak_bytes(f, torch.ones(1000)) <= 4 * 8000

    def test_views_and_inputs_cost_nothing(self) -> None:
        x = torch.ones(1000)
        assert (
            peak_bytes(lambda: x[:10].expand(5, 10).contiguous()[0].view(2, 5)) == 400
        )
        assert peak_bytes(lambda: x[:10].expand(5, 10)) == 0

    def test_sees_through_vmap_and_jacobians(self) -> None:
        x = torch.ones(1000)
        assert peak_bytes(vmap(torch.sin), x) == 8000
        assert peak_bytes(lambda: vmap(grad(torch.sin))(x)) >= 2 * 8000
