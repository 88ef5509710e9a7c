"""Products of Jacobians: the same as by matrices, under every transform."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from mrsim import _gram
from mrsim._gram import gram
from mrsim.tree import tree_leaves

G = torch.Generator().manual_seed(3)
X, XX = (torch.randn(*n, 2, 3, 7, generator=G) for n in ((), (4,)))
W, WW = torch.rand(7, generator=G), torch.rand(5, 7, generator=G)
MIX = torch.randn(3, 3, generator=G)

Model = Callable[[Tensor, Tensor], Tensor]


def by_matrices(rows: Tensor, weights: Tensor) -> Tensor:
    return ((rows.conj() * weights).resolve_conj() @ rows.mT).real


def of(product: Model, *, real: bool) -> Model:
    def f(x: Tensor, w: Tensor) -> Tensor:
        rows = x[0] if real else torch.complex(x[0], x[1])
        return (product(rows, w) * MIX).sum().sin()

    return f


def over(f: Model, dims: tuple[int | None, int | None]) -> Model:
    return lambda x, w: vmap(f, dims)(
        XX if dims[0] == 0 else x, WW if dims[1] == 0 else w
    )


TRANSFORMS = {
    "value": lambda f: f,
    "grad": lambda f: grad(f, (0, 1)),
    "grad by rows": lambda f: grad(f, 0),
    "jacfwd": lambda f: jacfwd(f, (0, 1)),
    "hessian": lambda f: hessian(f, (0, 1)),
    "jacrev(jacrev)": lambda f: jacrev(jacrev(f, (0, 1)), (0, 1)),
    "jacfwd(grad by rows)": lambda f: jacfwd(grad(f, 0), (0, 1)),
    "jacrev(jacfwd)": lambda f: jacrev(jacfwd(f, 1), (0, 1)),
    "vmap rows": lambda f: over(grad(f, (0, 1)), (0, None)),
    "vmap weights": lambda f: over(grad(f, (0, 1)), (None, 0)),
    "vmap hessian": lambda f: over(hessian(f, 0), (0, None)),
    "grad(vmap)": lambda f: grad(lambda x, w: over(f, (None, 0))(x, w).sum(), 0),
    "vmap vmap grad": lambda f: (
        lambda *_: vmap(vmap(grad(f, (0, 1)), (0, None)), (None, 0))(XX, WW)
    ),
}


@pytest.mark.parametrize("real", [True, False], ids=["real", "complex"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_compositions(name: str, real: bool) -> None:
    made, wanted = (
        TRANSFORMS[name](of(g, real=real))(X, W) for g in (gram, by_matrices)
    )
    for a, b in zip(tree_leaves(made), tree_leaves(wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_one_weight_for_all() -> None:
    w = torch.tensor([0.7])
    for f in (of(gram, real=False), over(of(gram, real=False), (0, None))):
        torch.testing.assert_close(f(X, w), f(X, w.expand(7)))
        made = grad(lambda x, v, f=f: f(x, v).sum())(X, w)
        wanted = grad(lambda x, v, f=f: f(x, v).sum())(X, w.expand(7))
        torch.testing.assert_close(made, wanted)


def test_large_batches_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    f = over(grad(of(gram, real=False), 0), (0, None))
    whole = f(X, W)
    monkeypatch.setattr(_gram, "_BLOCK", 45)
    assert torch.equal(f(X, W), whole)


def test_a_small_jacobian_is_multiplied_in_double_precision() -> None:
    narrow = X[0].float()
    exact = by_matrices(narrow.double(), W)
    torch.testing.assert_close(gram(narrow, W), exact, rtol=1e-14, atol=1e-14)
    slope = grad(lambda x: (gram(x, W) * MIX).sum())(narrow)
    assert slope.dtype == torch.float32
