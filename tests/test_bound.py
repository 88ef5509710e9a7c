"""Bounds in one function with a derivative rule, against the same step by step."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from mrsim import _bound, _gram, _small
from mrsim._bound import Rule, bound, information, variances
from mrsim._covariance import invert

torch.manual_seed(0)
ROWS = torch.randn(3, 7, dtype=torch.complex128)
SIGNAL = torch.randn(7, dtype=torch.complex128)
ONE, EACH = torch.tensor([2.0]), torch.rand(7) + 0.5
FIELDS = (torch.tensor(0.8), torch.tensor([0.3, 0.9]))
KNOWN = torch.diag(torch.tensor([0.5, 0.0, 2.0]))
BARS = torch.tensor([0.7, -0.2, 1.1])
RULE = Rule(
    floors=(0.0, 1.0),
    shapes=(torch.Size([]), torch.Size([2])),
    dtype=torch.float64,
)


def fused(rows: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
    rule = RULE if known is None else replace(RULE, prior=True)
    more = () if known is None else (known,)
    found = variances(rule, rows, SIGNAL, weights, *FIELDS, *more)
    return torch.cat([x.reshape(-1) for x in found])


def stepwise(rows: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
    F = torch.einsum("is,js,s->ij", rows.conj(), rows, weights.expand(7).to(rows)).real
    return torch.linalg.inv(F if known is None else F + known).diagonal()


def cost(f: Callable[..., Tensor], *rest: Any) -> Callable[[Tensor], Tensor]:
    def scalar(x: Tensor) -> Tensor:  # of real numbers, which all transforms take
        return f(torch.complex(x[0], x[1]), *rest) @ BARS

    return scalar


REAL = torch.stack([ROWS.real, ROWS.imag])
WAYS: dict[str, Callable[..., Any]] = {
    "value": lambda f: f(REAL),
    "gradient": lambda f: grad(f)(REAL),
    "forward": lambda f: jacfwd(f)(REAL),
    "hessian": lambda f: hessian(f)(REAL),
    "forward of forward": lambda f: jacfwd(jacfwd(f))(REAL),
    "reverse of reverse": lambda f: jacrev(jacrev(f))(REAL),
    "mapped gradient": lambda f: vmap(grad(f))(torch.stack([REAL, 2 * REAL])),
    "gradient of mapped": lambda f: grad(lambda x: vmap(f)(x).sum())(
        torch.stack([REAL, 2 * REAL])
    ),
    "mapped hessian": lambda f: vmap(hessian(f))(torch.stack([REAL, 2 * REAL])),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rest", [(ONE,), (EACH,), (EACH, KNOWN)], ids=["1", "w", "p"])
def test_every_derivative_is_that_of_the_steps(way: str, rest: Any) -> None:
    made = WAYS[way](cost(fused, *rest))
    torch.testing.assert_close(
        made, WAYS[way](cost(stepwise, *rest)), rtol=1e-9, atol=0
    )


def test_weights_and_prior_are_differentiated_too() -> None:
    for k in (0, 1):
        made, wanted = (
            jacrev(lambda *rest, f=f: f(ROWS, *rest), argnums=k)(EACH, KNOWN)
            for f in (fused, stepwise)
        )
        torch.testing.assert_close(made, wanted, rtol=1e-9, atol=1e-14)


def test_plain_autograd_and_one_bound_alone() -> None:
    rows = ROWS.clone().requires_grad_()
    _, second = variances(RULE, rows, SIGNAL, EACH, *FIELDS)
    (made,) = torch.autograd.grad(second[1], rows)
    (wanted,) = torch.autograd.grad(stepwise(rows, EACH)[2], rows)
    torch.testing.assert_close(made, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("back", [False, True])
def test_numbers_and_tensors_agree(back: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = [BARS[0], BARS[1:]] if back else []
    rule = replace(RULE, prior=True, back=back)
    inputs = ROWS, SIGNAL, EACH, *FIELDS, KNOWN, *bars
    made = _bound._plain(rule, *inputs)
    monkeypatch.setattr(_bound, "_SMALL", 0)
    torch.testing.assert_close(made, _bound._plain(rule, *inputs), rtol=1e-12, atol=0)


@pytest.mark.parametrize("p", [8, 9])
def test_numbers_invert_up_to_eight_unknowns(p: int) -> None:
    rule = Rule(floors=(0.0,), shapes=(torch.Size([p]),), dtype=torch.float64)
    inputs = torch.randn(p, 20), torch.randn(20), ONE, torch.rand(p)
    made = _bound._small_covariance(rule, inputs)
    wanted = bound(rule, *inputs).matrix
    assert (made is None) == (p > 8)
    if made is not None:
        torch.testing.assert_close(torch.tensor(made), wanted, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize(
    ("fields", "scales"),
    [
        ((torch.tensor(0.8), torch.tensor([0.3, 0.9])), (0.8, 1.0, 1.0)),
        ((torch.tensor(-3.0), torch.tensor([0.5, -4.0])), (3.0, 4.0, 4.0)),
        ((torch.tensor(0.0), torch.tensor([0.0, 0.0])), (1.0, 1.0, 1.0)),
    ],
)
def test_numbers_know_the_same_noise(row: int, fields: Any, scales: Any) -> None:
    norm = (ONE * SIGNAL.abs().square()).sum().sqrt()
    least = 100 * torch.finfo(torch.float64).eps * math.sqrt(7) * norm / scales[row]
    for factor, silent in ((0.9, True), (1.1, False)):
        rows = ROWS.clone()
        rows[row] *= factor * least / (ONE * ROWS[row].abs().square()).sum().sqrt()
        inputs = rows, SIGNAL, ONE, *fields
        assert (_bound._small_covariance(RULE, inputs) is None) == silent
        assert bool(bound(RULE, *inputs).absent[row]) == silent


def test_numbers_keep_double_precision_whatever_the_default() -> None:
    before = torch.get_default_dtype()
    wanted = stepwise(ROWS, EACH), grad(cost(stepwise, EACH))(REAL)
    torch.set_default_dtype(torch.float32)
    try:
        made = fused(ROWS, EACH), grad(cost(fused, EACH))(REAL)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(made, wanted, rtol=1e-9, atol=0)


def test_what_numbers_leave_to_tensors() -> None:
    same = torch.stack([ROWS[0], ROWS[0], ROWS[2]])
    silent = ROWS * torch.tensor([1.0, 1e-17, 1.0])[:, None]
    broken = ROWS.clone()
    broken[1, 2] = math.nan
    for rows, lost in ((same, [1, 1, 0]), (silent, [0, 1, 0])):
        found = fused(rows, ONE)
        assert found.isinf().tolist() == [bool(x) for x in lost]
        slope = grad(lambda x, lost=lost: fused(x, ONE)[lost.index(0)])(rows)
        assert slope.isfinite().all()
        assert slope.abs().sum() > 0
        flat = grad(lambda x, lost=lost: fused(x, ONE)[lost.index(1)])(rows)
        assert not flat.any()
        inputs = rows, SIGNAL, ONE, *FIELDS
        assert found.equal(bound(RULE, *inputs).matrix.diagonal())
    assert fused(broken, ONE).isnan().all()


def test_information_is_what_is_inverted() -> None:
    F = information(RULE, ROWS, SIGNAL, EACH, *FIELDS)
    wanted = invert(F, 1e-16).matrix.diagonal()
    torch.testing.assert_close(fused(ROWS, EACH), wanted, rtol=1e-12, atol=0)


def test_small_inverses() -> None:
    A = torch.randn(6, 9)
    F = A @ torch.diag(torch.logspace(-2, 2, 9)) @ A.T
    F = F * torch.outer(*[torch.logspace(-6, 6, 6)] * 2)
    made = _small.inverse(F.tolist(), 1e-14)
    assert made is not None
    unit = F.diagonal().rsqrt()
    scaled = torch.linalg.inv(F * torch.outer(unit, unit)) * torch.outer(unit, unit)
    torch.testing.assert_close(torch.tensor(made), scaled, rtol=1e-6, atol=0)
    for bad in ([[1.0, 2.0], [2.0, 1.0]], [[0.0]], [[math.nan]], [[math.inf]]):
        assert _small.inverse(bad, 1e-14) is None
    assert _small.inverse([[1.0, 1.0 - 1e-9], [1.0 - 1e-9, 1.0]], 1e-8) is None
    for unsure, tolerance in ((False, 0.49), (True, 0.5), (True, 0.75)):
        found = _small.inverse([[1.0, 0.0], [0.0, 1.0]], tolerance)
        assert (found is None) == unsure


def test_two_voxels_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gram, "_BLOCK", 1)
    rows = torch.stack([ROWS, 2 * ROWS.conj()])
    made = vmap(_gram.gram, in_dims=(0, None))(rows, EACH)
    wanted = torch.stack([_gram.gram(x, EACH) for x in rows])
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=0)
