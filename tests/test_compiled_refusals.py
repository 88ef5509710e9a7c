"""What `compiled` refuses, or calls as it is."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from compiled_models import X, close, counted
from torch import Tensor
from torch.func import grad, jacfwd, vmap

import mrsim
from mrsim import ivim
from mrsim._compiled import compiled
from mrsim._recorder import opaque

OUTSIDE = torch.tensor(3.0)


@pytest.mark.parametrize("through", ["closure", "partial", "transform"])
def test_closures_are_refused_by_name(through: str) -> None:
    weight = torch.tensor(2.0)
    f = {
        "closure": lambda x: (x * weight).sum(),
        "partial": partial(lambda argument, x: (x * argument).sum(), weight),
        "transform": grad(lambda x: (x * weight).sum()),
    }[through]
    name = "argument" if through == "partial" else "weight"
    with pytest.raises(ValueError, match=f"uses '{name}', a tensor of shape"):
        compiled(f)(X)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * OUTSIDE,
        lambda x: x * float(OUTSIDE),
        lambda x: x if OUTSIDE > 2 else -x,
        lambda x: (x, OUTSIDE),
        vmap(lambda x: x * OUTSIDE),
        grad(lambda x: (x * OUTSIDE.exp()).sum()),
    ],
)
def test_other_tensors_from_outside_are_refused(f: Any) -> None:
    with pytest.raises(ValueError, match="no argument"):
        compiled(f)(X)


def test_tensors_that_torch_func_wraps_are_refused() -> None:
    # vmap hides the global inside a wrapper of its own
    f = vmap(lambda x, y: x * y, in_dims=(0, 0))
    with pytest.raises(ValueError, match="no argument"):
        compiled(lambda x: f(x, OUTSIDE.expand(4)))(X)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * float(x.sum()),
        lambda x: x[x.nonzero()[:, 0]],
        lambda x: x[x > 1],
        lambda x: x if torch.equal(x, x) else -x,
    ],
)
def test_courses_that_depend_on_values_are_refused(f: Any) -> None:
    with pytest.raises(ValueError, match="depends on values"):
        compiled(f)(X)


@pytest.mark.parametrize(
    "leave",
    [
        lambda x: torch.from_numpy(x.numpy() * 2),
        lambda x: torch.as_tensor(np.asarray(x)),
        lambda x: x * x.data_ptr(),
        lambda x: torch.from_dlpack(x),
    ],
)
def test_memory_that_leaves_torch_is_refused(leave: Any) -> None:
    with pytest.raises(ValueError, match="outside torch"):
        compiled(leave)(X)
    close(compiled(lambda x: x * float(torch.tensor([2.0]).numpy()[0]))(X), 2 * X)


def native(power: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(x.numpy() ** power), y.new_tensor((x + y).tolist())


def test_opaque_functions_are_called_again() -> None:
    f, calls = counted(lambda x, y: opaque(native, 3, x, y.sin())[1] * x)
    run = compiled(f)
    for scale in (1.0, 2.0):
        close(run(scale * X, X), (scale * X + X.sin()) * scale * X)
    assert len(calls) == 1
    assert opaque(native, 2, X, X)[0] is not None


def test_a_refusal_harms_no_later_call() -> None:
    with pytest.raises(ValueError, match="depends on values"):
        compiled(jacfwd(lambda x: x.sin() * 2.0 * (1 if x.sum() > 0 else 2)))(X)
    with pytest.raises(ValueError, match="no argument"):
        compiled(vmap(jacfwd(lambda x: x.sin() * 2.0 * OUTSIDE)))(X[:, None])
    f = vmap(jacfwd(lambda x: x.sin() * 2.0 + torch.tensor(1.0)))
    close(f(X[:, None]), 2 * X.cos()[:, None, None])
    close(compiled(f)(X[:, None]), 2 * X.cos()[:, None, None])


def test_fits_whose_loops_end_by_values_are_refused() -> None:
    q = ivim.Acquisition(b=torch.tensor([0.0, 50.0, 200.0, 400.0, 800.0]))
    start = ivim.Biexp(S0=1.0, f=0.1, Dp=0.02, D=0.001)
    fit = mrsim.fit.levenberg_marquardt(ivim.signal)
    with pytest.raises(ValueError, match="step of a loop"):
        compiled(lambda y: fit(y, start_of(start, y), acquisition_of(q, y)).params)(
            ivim.signal(start, q)
        )


def start_of(start: ivim.Biexp, y: Tensor) -> ivim.Biexp:
    values = {"S0": 1.0, "f": 0.1, "Dp": 0.02, "D": 0.001}
    return type(start)(**{n: y.new_full((), v) for n, v in values.items()})


def acquisition_of(_: ivim.Acquisition, y: Tensor) -> ivim.Acquisition:
    return ivim.Acquisition(b=100.0 * torch.arange(5).to(y))


def test_arguments_that_cannot_be_keys() -> None:
    with pytest.raises(TypeError, match="got bytearray; convert"):
        compiled(lambda x, y: x * len(y))(X, bytearray(3))


def test_an_error_leaves_nothing_behind() -> None:
    f, calls = counted(lambda x, n: x.reshape(n))
    run = compiled(f)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="invalid"):
            run(X, 3)
    close(run(X, 4), X)
    assert len(calls) == 3


def test_numbers_of_a_closure_are_constants() -> None:
    power = math.pi
    close(compiled(grad(lambda x: (x**power).sum()))(X), math.pi * X ** (math.pi - 1))
