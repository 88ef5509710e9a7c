"""Functions with rules of their own, at every level, as torch itself would see them."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from mrsim import _levels
from mrsim._levels import Family

X, Y = torch.tensor([0.3, -1.2, 0.8]), torch.tensor([1.1, 0.4, -0.7])


def plain(power: int, x: Tensor, y: Tensor) -> Tensor:
    return x**power * y


def _zeros_for(inputs: Sequence[Tensor], moves: Sequence[Any]) -> list[Tensor]:
    pairs = zip(inputs, moves, strict=True)
    return [torch.zeros_like(x) if t is None else t for x, t in pairs]


def _moved(size: int, dims: Sequence[Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    return [
        x[None].expand(size, *x.shape) if d is None else x.movedim(d, 0)
        for x, d in zip(inputs, dims, strict=True)
    ]


def _family(leave: Callable[..., Any]) -> Family:
    """Make xᵖ·y of rules that call it again, by one way of evaluating families."""

    def push(p: int, inputs: Sequence[Tensor], moves: Sequence[Any]) -> Tensor:
        # plain operations here would lose the tangents of outer levels in torch's way
        return leave(ALONG, p, *inputs, *_zeros_for(inputs, moves))

    def pull(
        p: int, inputs: Sequence[Tensor], bars: Sequence[Tensor], wanted: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        x, y = inputs
        first = p * leave(made, p - 1, x, y * bars[0]) if wanted[0] else None
        return first, leave(made, p, x, bars[0]) if wanted[1] else None

    def mapped(p: int, size: int, dims: Sequence[Any], inputs: Sequence[Tensor]) -> Any:
        return leave(made, p, *_moved(size, dims, inputs)), 0

    made = Family(value=lambda p, x, y: x**p * y, push=push, pull=pull, vmap=mapped)
    return made


OURS = _family(_levels.apply)
TORCHS = _family(_levels._Node.apply)


def ours(x: Tensor, y: Tensor) -> Tensor:
    return _levels.apply(OURS, 3, x, y)


def torchs(x: Tensor, y: Tensor) -> Tensor:
    return _levels._Node.apply(TORCHS, 3, x, y)  # pyright: ignore


class Inside(torch.autograd.Function):
    """Rules that call a family, as those of implicit functions do."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return plain(3, x, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, _: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Any:  # pyright: ignore
        return OURS.pull(3, ctx.saved_tensors, (bar,), (True, True))

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, dy: Tensor) -> Any:  # pyright: ignore
        x, y = ctx.saved_tensors
        return _levels.apply(ALONG, 3, x, y, dx, dy)

    @staticmethod
    def vmap(info: Any, dims: Any, *inputs: Tensor) -> Any:
        return Inside.apply(*_moved(info.batch_size, dims, inputs)), 0


def _along(p: int, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    return p * x ** (p - 1) * y * dx + x**p * dy


def _along_push(p: int, inputs: Sequence[Tensor], moves: Sequence[Any]) -> Tensor:
    (x, y, dx, dy), (a, b, c, d) = inputs, _zeros_for(inputs, moves)
    first = p * (p - 1) * x ** (p - 2) * y * dx * a + x**p * d
    return first + p * x ** (p - 1) * (dx * b + dy * a + y * c)


def _along_pull(
    p: int, inputs: Sequence[Tensor], bars: Sequence[Tensor], _: Sequence[bool]
) -> Sequence[Tensor]:
    x, y, dx, dy = inputs
    g, slope = bars[0], p * x ** (p - 1)
    first = p * (p - 1) * x ** (p - 2) * y * dx + slope * dy
    return first * g, slope * dx * g, slope * y * g, x**p * g


def _along_map(p: int, size: int, dims: Sequence[Any], inputs: Sequence[Tensor]) -> Any:
    return _along(p, *_moved(size, dims, inputs)), 0


ALONG = Family(_along, _along_push, _along_pull, _along_map)


def inside(x: Tensor, y: Tensor) -> Tensor:
    return Inside.apply(x, y)  # pyright: ignore[reportReturnType]


STEPS: dict[str, Callable[[Callable[..., Tensor]], Callable[..., Tensor]]] = {
    "jacfwd x": lambda f: jacfwd(f, 0),
    "jacfwd y": lambda f: jacfwd(f, 1),
    "jacrev x": lambda f: jacrev(f, 0),
    "grad y": lambda f: grad(lambda *a: f(*a).sin().sum(), 1),
    "jvp both": lambda f: lambda x, y: jvp(f, (x, y), (y, x.cos()))[1],
    "vmap x": lambda f: lambda x, y: vmap(f, (0, None))(torch.stack([x, 2 * x]), y),
    "vmap y": lambda f: lambda x, y: vmap(f, (None, 0))(x, torch.stack([y, -y])),
    "no_grad": lambda f: torch.no_grad()(f),
}
THREE = [c for c in product(STEPS, repeat=3) if "no_grad" not in c]
TWO = list(product(STEPS, repeat=2))


@pytest.mark.parametrize("names", TWO + THREE[::7], ids="-".join)
@pytest.mark.parametrize("f", [ours, inside])
def test_compositions(f: Callable[..., Tensor], names: tuple[str, ...]) -> None:
    made, wanted, official = f, lambda x, y: plain(3, x, y), torchs
    for name in names:
        made, wanted, official = (STEPS[name](g) for g in (made, wanted, official))
    got, same = made(X, Y), wanted(X, Y)
    torch.testing.assert_close(got, same, rtol=1e-12, atol=1e-12)
    forward = sum(name.startswith("j") and name != "jacrev x" for name in names)
    if f is ours and forward < 3:
        torch.testing.assert_close(official(X, Y), same, rtol=1e-12, atol=1e-12)


def test_plain_autograd() -> None:
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    (g,) = torch.autograd.grad(ours(x, y).sum(), x, create_graph=True)
    torch.testing.assert_close(g, 3 * X**2 * Y)
    g.sum().backward()
    torch.testing.assert_close(x.grad, 6 * X * Y)
    torch.testing.assert_close(y.grad, 3 * X**2)


def test_dual_numbers_without_and_within_transforms() -> None:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(X, Y)
        moved = forward_ad.unpack_dual(ours(x, Y)).tangent
        mapped = forward_ad.unpack_dual(vmap(ours)(x, Y)).tangent
        slope = grad(lambda v: (ours(v, Y) * v).sum())
        turned = forward_ad.unpack_dual(slope(x)).tangent
    torch.testing.assert_close(moved, 3 * X**2 * Y * Y)
    torch.testing.assert_close(mapped, moved)
    torch.testing.assert_close(turned, 12 * X**2 * Y * Y)


def test_autograd_from_outside_reaches_into_transforms() -> None:
    y = Y.clone().requires_grad_()
    vmap(grad(lambda x, v: ours(x, v)))(X, y).sum().backward()
    torch.testing.assert_close(y.grad, 3 * X**2)
    x = X.clone().requires_grad_()
    jvp(lambda v: ours(x, v), (Y,), (Y,))[1].sum().backward()
    torch.testing.assert_close(x.grad, 3 * X**2 * Y)


def test_pullbacks_after_their_level_has_ended() -> None:
    pull: Any = vjp(ours, X, Y)[1]
    bars = torch.eye(3)
    first, second = vmap(pull)(bars)
    torch.testing.assert_close(first, torch.diag(3 * X**2 * Y))
    torch.testing.assert_close(second, torch.diag(X**3))
    turned = jacrev(lambda b: pull(b)[0])(bars[1])
    torch.testing.assert_close(turned, torch.diag(3 * X**2 * Y))


def test_autograd_by_hand_within_a_transform() -> None:
    def f(x: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(ours(x, Y).sum(), x, create_graph=True)
        return g.sum()

    torch.testing.assert_close(grad(f)(X), 6 * X * Y)


def test_hessian_under_vmap() -> None:
    H = vmap(hessian(lambda x, y: ours(x, y).sum()), (0, None))(X[None], Y)
    torch.testing.assert_close(H[0], torch.diag(6 * X * Y))


def test_levels_unknown_to_it_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_levels, "_STEPS", {})
    f = vmap(jacfwd(jacrev(ours)), (0, None))
    torch.testing.assert_close(f(X[None], Y)[0], jacfwd(jacrev(torchs))(X, Y))


# ------------------------------------------------------------ transforms without trees


def _two(x: Tensor, y: Tensor) -> list[Tensor]:
    return [ours(x, y).sin(), (x + y).exp()]


@pytest.mark.parametrize("alone", [False, True])
def test_forward_mode_is_that_of_torch(alone: bool) -> None:
    moves = torch.ones(3), torch.tensor([0.2, 0.0, -1.0])
    made = _levels.jvp(_two, (X, Y), moves, alone=alone)
    wanted = jvp(lambda x, y: tuple(_two(x, y)), (X, Y), moves)
    torch.testing.assert_close(made, wanted, rtol=1e-14, atol=0)
    one = _levels.jvp(ours, (X, Y), moves, alone=alone)
    torch.testing.assert_close(one, jvp(ours, (X, Y), moves), rtol=1e-14, atol=0)
    assert forward_ad._current_level < 0


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("outer", [jacfwd, jacrev, lambda f: vmap(f), hessian])
def test_forward_mode_under_transforms(outer: Any, alone: bool) -> None:
    def by(way: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        def f(x: Tensor) -> Tensor:
            moved = way(ours, (x, x * x), (torch.ones_like(x), x))[1]
            return moved * x

        return f

    def ways(f: Any, primals: Any, moves: Any) -> Any:
        return _levels.jvp(f, primals, moves, alone=alone)

    torch.testing.assert_close(
        outer(by(ways))(X), outer(by(jvp))(X), rtol=1e-13, atol=0
    )


def test_an_error_inside_leaves_no_level() -> None:
    def bad(x: Tensor) -> Any:
        raise ValueError(str(x.shape))

    for alone in (False, True):
        with pytest.raises(ValueError, match="3"):
            _levels.jvp(bad, (X,), (Y,), alone=alone)
    with pytest.raises(ValueError, match="Size"):
        _levels.vmap(bad, [X])
    assert forward_ad._current_level < 0
    assert torch.func.grad(lambda x: x.sum())(X).equal(torch.ones(3))


def test_maps_over_rows() -> None:
    rows = [torch.stack([X, Y, X + Y]), torch.stack([Y, Y, X])]

    def f(x: Tensor, y: Tensor) -> Any:
        return [X * 2], [ours(x, y), X * 2]

    wanted = vmap(lambda x, y: tuple(f(x, y)[1]))(*rows)
    for same, each in (_levels.vmap(f, rows), _levels.vmap(f, rows, 2)):
        torch.testing.assert_close(tuple(each), wanted, rtol=1e-14, atol=0)
        assert same[0].equal(X * 2)
    slopes = jacfwd(lambda r: _levels.vmap(f, [r, rows[1]])[1][0])(rows[0])
    torch.testing.assert_close(
        slopes, jacfwd(lambda r: vmap(ours)(r, rows[1]))(rows[0]), rtol=1e-14, atol=0
    )
