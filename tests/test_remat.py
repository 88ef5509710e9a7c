"""Rematerialising segments: any composition of transforms, memory of the inputs."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import strategies
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import mrsim
from mrsim import Tissue, remat, tree
from mrsim._batched import peak_bytes
from mrsim._remat import Segment, apply


def f(x: Tensor, y: Tensor) -> Tensor:
    """A smooth function of a vector and a scalar, with no vanishing derivative."""
    return (x * y).sin().cumsum(-1) * (x * x).sum(-1, keepdim=True).exp() + y


g = remat(f)
X, Y = torch.tensor([0.3, -0.2, 0.5]), torch.tensor(0.7)
XS, YS = torch.linspace(-0.5, 0.5, 12).reshape(4, 3), torch.linspace(0.1, 1.0, 4)


def total(h: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Sum the outputs, so that grad applies."""
    return lambda *xs: h(*xs).sum()


def close(a: Any, b: Any) -> None:
    """Require equal structure and leaves."""
    (x, s), (y, t) = tree.tree_flatten(a), tree.tree_flatten(b)
    assert s == t
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


TRANSFORMS = {
    "value": lambda h: h,
    "grad": lambda h: grad(total(h)),
    "grad y": lambda h: grad(total(h), 1),
    "jacfwd": lambda h: jacfwd(h, (0, 1)),
    "jacrev": lambda h: jacrev(h, (0, 1)),
    "hessian": lambda h: hessian(h, (0, 1)),
    "jacfwd jacrev": lambda h: jacfwd(jacrev(h, (0, 1)), (0, 1)),
    "jacrev jacfwd": lambda h: jacrev(jacfwd(h, (0, 1)), (0, 1)),
    "jacfwd jacfwd": lambda h: jacfwd(jacfwd(h), 1),
    "jacrev jacrev": lambda h: jacrev(jacrev(h), 1),
    "jvp of grad": lambda h: lambda x, y: jvp(grad(total(h)), (x, y), (x, y)),
    "vjp": lambda h: lambda x, y: vjp(h, x, y)[1](x),
}
THIRD = list(itertools.product([jacfwd, jacrev], repeat=3))


@pytest.mark.parametrize("name", TRANSFORMS)
class TestTransforms:
    def test_alone(self, name: str) -> None:
        make = TRANSFORMS[name]
        close(make(g)(X, Y), make(f)(X, Y))

    @pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 0)])
    def test_under_vmap(self, name: str, dims: tuple[int | None, ...]) -> None:
        make = TRANSFORMS[name]
        x = {0: XS, 1: XS.T, None: X}[dims[0]]
        y = Y if dims[1] is None else YS
        close(*(vmap(make(h), in_dims=dims)(x, y) for h in (g, f)))

    def test_of_vmap(self, name: str) -> None:
        make = TRANSFORMS[name]
        mapped = [vmap(h, in_dims=(0, None)) for h in (g, f)]
        if name == "vjp":
            mapped = [lambda x, y, h=h: h(x, y) for h in mapped]
        close(*(make(h)(XS, Y) for h in mapped))

    def test_between_vmaps(self, name: str) -> None:
        make = TRANSFORMS[name]

        def nested(h: Any) -> Any:
            return vmap(vmap(make(h), in_dims=(0, None)), in_dims=(None, 0))(XS, YS)

        close(nested(g), nested(f))


@pytest.mark.parametrize("order", THIRD, ids=lambda o: " ".join(h.__name__ for h in o))
def test_third_derivative(order: tuple[Any, ...]) -> None:
    def third(h: Any) -> Any:
        for make in order:
            h = make(h)
        return h

    close(third(g)(X, Y), third(f)(X, Y))
    close(*(vmap(third(h), in_dims=(0, None))(XS, Y) for h in (g, f)))


def test_nested_segments() -> None:
    outer = remat(lambda x, y: g(g(x, y) / 10, y))
    plain = lambda x, y: f(f(x, y) / 10, y)  # noqa: E731
    for name in ("value", "grad y", "hessian"):
        close(TRANSFORMS[name](outer)(X, Y), TRANSFORMS[name](plain)(X, Y))


class TestAutograd:
    def test_backward_twice(self) -> None:
        x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
        pairs = []
        for h in (g, f):
            first = torch.autograd.grad(h(x, y).sum(), (x, y), create_graph=True)
            second = torch.autograd.grad(sum(v.sum() for v in first), (x, y))
            pairs.append((first, second))
        close(*(tree.tree_map(torch.detach, p) for p in pairs))

    def test_gradcheck(self) -> None:
        x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
        assert torch.autograd.gradcheck(g, (x, y))
        assert torch.autograd.gradgradcheck(g, (x, y))

    def test_only_what_is_asked(self) -> None:
        y = Y.clone().requires_grad_()
        g(X, y).sum().backward()
        torch.testing.assert_close(y.grad, grad(total(f), 1)(X, Y))


class TestPytrees:
    def test_records_in_and_trees_out(self) -> None:
        def h(x: Tissue, t: Tensor) -> dict[str, Any]:
            s = (-t / x.T2).exp()
            return {"s": torch.complex(s, s**2), "x": x, "pair": (t * x.T1, t)}

        x, t = Tissue(T1=1.0, T2=0.1), torch.tensor([0.1, 0.2])
        close(remat(h)(x, t), h(x, t))
        close(*(mrsim.jac(k, "T1", "T2")(x, t) for k in (remat(h), h)))
        modes = {"mode": "reverse"}
        close(*(mrsim.jac(k, "T1", "T2", **modes)(x, t) for k in (remat(h), h)))
        batch = mrsim.expand(x, 3)
        close(*(vmap(k, in_dims=(0, None))(batch, t) for k in (remat(h), h)))

    @pytest.mark.parametrize("make", [grad, jacfwd, jacrev, hessian])
    def test_inputs_returned_as_they_came(self, make: Any) -> None:
        same = remat(lambda x: x)
        shift = remat(lambda x: x + 1)
        for h, plain in ((same, lambda x: x), (shift, lambda x: x + 1)):
            close(make(h)(Y), make(plain)(Y))
            close(vmap(make(h))(YS), vmap(make(plain))(YS))
        assert same(Y) is not Y

    def test_constant_outputs(self) -> None:
        h = remat(lambda x: (x + 1, torch.ones(2)))
        assert jacfwd(h)(Y)[1].tolist() == [0.0, 0.0]
        assert jacrev(h)(Y)[1].tolist() == [0.0, 0.0]
        assert vmap(h)(YS)[1].shape == (4, 2)

    def test_integer_tensors_and_python_values(self) -> None:
        def h(x: Tensor, index: Tensor, n: int, scale: float, name: str) -> Tensor:
            assert name == "a"
            return (scale * x[index]) ** n

        index = torch.tensor([2, 0])
        rest = (index, 3, 2.0, "a")
        for make in (grad, jacfwd, jacrev, hessian):
            made = [make(total(k))(X, *rest) for k in (remat(h), h)]
            close(*made)
        many = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]])

        def each(k: Any) -> Any:
            return vmap(lambda x, i: grad(total(k))(x, i, 3, 2.0, "a"))(XS, many)

        close(each(remat(h)), each(h))

    def test_keeps_the_name(self) -> None:
        assert g.__name__ == "f"
        assert g.__doc__ == f.__doc__


class TestClosures:
    """What f closes over has no derivative; where that would lie, it is refused."""

    def test_constants_are_fine(self) -> None:
        c = torch.tensor(2.0)
        assert grad(remat(lambda x: c * x))(Y) == 2.0
        assert vmap(grad(remat(lambda x: c * x)))(YS).tolist() == [2.0] * 4

    @pytest.mark.parametrize("make", [grad, jacfwd, jacrev])
    def test_traced_tensors_are_refused(self, make: Any) -> None:
        with pytest.raises(ValueError, match=r"closes over 'y', .* an argument"):
            make(lambda y: remat(lambda x: x * y)(X).sum())(Y)
        with pytest.raises(ValueError, match="closes over 't'"):
            make(lambda t: remat(lambda x: x * t.T1)(X).sum())(Tissue(T1=1.0, T2=0.1))

    def test_parameters_are_refused(self) -> None:
        y = Y.clone().requires_grad_()
        with pytest.raises(ValueError, match="closes over 'y'"):
            remat(lambda x: x * y)(X)


def saved_bytes(h: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Count what autograd keeps for the backward pass, inputs left out."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        h(*inputs)
    known = {x.untyped_storage().data_ptr() for x in inputs}
    return sum(n for key, n in kept.items() if key not in known)


def chain(x: Tensor) -> Tensor:
    """Fifty steps, each of which autograd would remember."""
    for _ in range(50):
        x = x.sin() + 0.1 * x.exp()
    return x


class TestMemory:
    x = torch.linspace(0, 1, 10_000)

    def test_saves_the_inputs_only(self) -> None:
        x = self.x.clone().requires_grad_()
        assert saved_bytes(remat(chain), x) == 0
        assert saved_bytes(chain, x) >= 50 * 80_000

    def test_peak_of_a_gradient_is_that_of_one_segment(self) -> None:
        def job(step: Any) -> Any:
            def run(x: Tensor) -> Tensor:
                for _ in range(8):
                    x = step(x)
                return x.sum()

            return lambda: grad(run)(self.x)

        assert peak_bytes(job(remat(chain))) < 0.3 * peak_bytes(job(chain))
        close(job(remat(chain))(), job(chain)())


class TestTrailing:
    """Segments whose vmap appends its axis: one call, however deep the nesting."""

    @staticmethod
    def rows(calls: list[Any]) -> Callable[..., Tensor]:
        """Return a simulator of (event, *batch) and () inputs that notes its shapes."""

        def h(x: Tensor, y: Tensor) -> Tensor:
            calls.append((tuple(x.shape), tuple(y.shape)))
            return (x * y).sin().cumsum(0) * (x * x).sum(0).exp() + y

        return lambda x, y: apply(Segment(h, 2, trailing=True), x, y)

    @pytest.mark.parametrize("name", TRANSFORMS)
    def test_transforms(self, name: str) -> None:
        make, h = TRANSFORMS[name], self.rows([])
        close(make(h)(X, Y), make(f)(X, Y))
        for dims, x, y in (((0, 0), XS, YS), ((0, None), XS, Y), ((None, 0), X, YS)):
            close(*(vmap(make(k), in_dims=dims)(x, y) for k in (h, f)))

        def nested(k: Any) -> Any:
            return vmap(vmap(make(k), in_dims=(0, None)), in_dims=(None, 0))(XS, YS)

        close(nested(h), nested(f))

    def test_nested_vmap_is_one_call(self) -> None:
        calls: list[Any] = []
        h = self.rows(calls)
        vmap(vmap(h, in_dims=(0, None)), in_dims=(None, 0))(XS, YS)
        ((x, y),) = calls
        assert torch.broadcast_shapes(x, y) == (3, 4, 4)


@given(strategies.angles, st.integers(1, 4))
def test_random_points(y: float, order: int) -> None:
    def derivative(h: Any) -> Any:
        for _ in range(order):
            h = grad(h)
        return h

    y0 = torch.tensor(y)
    close(derivative(remat(lambda v: v.sin()))(y0), derivative(torch.sin)(y0))
