"""Exponentials of rate matrices in closed form, and their derivatives of any order."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, jvp, vmap

from mrsim.epg.matrices import exponential, exponentials

TIME = torch.tensor([1e-6, 1e-3, 0.02, 0.5, 4.0])
RATES = {
    "generic": (1.2, 4.0, 3.0, 0.7),
    "fast": (10.0, 800.0, 60.0, 20.0),
    "no exchange": (1.2, 4.0, 0.0, 0.0),
    "one way": (1.2, 4.0, 3.0, 0.0),
    "equal pools": (2.0, 2.0, 1.5, 1.5),
    "all alike": (2.0, 2.0, 0.0, 0.0),
    "still": (0.0, 0.0, 0.0, 0.0),
    "at the limit of the series": (20.0, 0.1, 0.1, 0.1),
}


def matrix(rates: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    a, b, there, back = (x[None] for x in rates)
    return (-(a + there), back), (there, -(b + back))


def whole(rates: Tensor, time: Tensor) -> Tensor:
    """Return the same by torch, one time after the other."""
    L = torch.stack([torch.cat(row) for row in matrix(rates)])
    return torch.linalg.matrix_exp(L * time[:, None, None]).movedim(0, -1)


def closed(rates: Tensor, time: Tensor) -> Tensor:
    return exponential(matrix(rates), time)


@pytest.fixture(params=RATES)
def rates(request: pytest.FixtureRequest) -> Tensor:
    return torch.tensor(RATES[request.param])


def test_two_pools(rates: Tensor) -> None:
    torch.testing.assert_close(
        closed(rates, TIME), whole(rates, TIME), rtol=1e-12, atol=1e-14
    )


def test_derivatives_in_both_modes(rates: Tensor) -> None:
    wanted = jacrev(whole, argnums=(0, 1))(rates, TIME)
    for mode in (jacfwd, jacrev):
        for made, true in zip(
            mode(closed, argnums=(0, 1))(rates, TIME), wanted, strict=True
        ):
            assert (made - true).abs().max() <= 1e-11 * (1 + true.abs().max())


def test_second_derivatives(rates: Tensor) -> None:
    def total(f: Callable[..., Tensor], x: Tensor) -> Tensor:
        return (f(x, TIME[1:4]) * torch.arange(1.0, 4)).sin().sum()

    wanted = hessian(lambda x: total(whole, x))(rates)
    for outer, inner in ((jacfwd, jacrev), (jacrev, jacfwd), (jacfwd, jacfwd)):
        made = outer(inner(lambda x: total(closed, x)))(rates)
        assert (made - wanted).abs().max() <= 1e-9 * (1 + wanted.abs().max())


def test_finite_differences() -> None:
    x = torch.tensor(RATES["generic"], requires_grad=True)
    t = torch.tensor([0.3], requires_grad=True)
    assert gradcheck(closed, (x, t), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(closed, (x, t), fast_mode=True)


def test_one_nan_stays_alone() -> None:
    both = torch.tensor([RATES["generic"], (float("nan"), 1.0, 1.0, 1.0)])
    made = vmap(closed, in_dims=(0, None))(both, TIME)
    assert made[1].isnan().all()
    torch.testing.assert_close(made[0], closed(both[0], TIME), rtol=0, atol=0)


def test_batches_are_loops() -> None:
    many = torch.tensor([RATES[n] for n in ("generic", "fast", "all alike")])
    made = vmap(jacfwd(closed), in_dims=(0, None))(many, TIME)
    loop = torch.stack([jacrev(closed)(x, TIME) for x in many])
    torch.testing.assert_close(made, loop, rtol=1e-11, atol=1e-11)


def test_turning_pools() -> None:
    turn = torch.tensor([0.0, 30.0])[None] * 1j
    slow = torch.tensor(RATES["generic"])

    def f(time: Tensor) -> Tensor:
        (a, b), (c, d) = matrix(slow)
        return exponential(((a + 0j, b), (c, d + turn[:, 1])), time)

    L = torch.stack([torch.cat(row) for row in matrix(slow)]) + torch.diag(turn[0])
    wanted = torch.linalg.matrix_exp(L * TIME[:, None, None]).movedim(0, -1)
    torch.testing.assert_close(f(TIME), wanted, rtol=1e-12, atol=1e-14)
    moved = jvp(f, (TIME,), (torch.ones_like(TIME),))[1]
    true = torch.einsum("ij,jkt->ikt", L, wanted)
    assert (moved - true).abs().max() <= 1e-10 * true.abs().max()


def test_several_at_once() -> None:
    two, pair = matrix(torch.tensor(RATES["fast"])), torch.tensor([-1.0])
    three = (*((*row, None) for row in two), (None, None, pair))
    short = TIME[:2]
    made = exponentials((two, TIME), (three, short), (((pair,),), TIME))
    assert torch.equal(made[0], exponential(two, TIME))
    assert torch.equal(made[1][:2, :2], exponential(two, short))
    assert torch.equal(made[1][2, 2], torch.exp(-short))
    assert not made[1][2, :2].any()
    assert torch.equal(made[2][0, 0], torch.exp(-TIME))
