"""Time stepping: SpinDoctor's midpoint rule, the complete model, derivatives."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torrey.fe_data import case, encoding, names

import mrsim
from mrsim import torrey
from mrsim.tree import replace
from mrsim.units import us

CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1.1, 1, 1]])
NODES, TOPOLOGY = torrey.make_mesh(6e-3 * CORNERS, [[0, 1, 2, 3], [1, 2, 3, 4]], [0, 1])
WATER = torrey.Water(
    D=[2e-3, 1e-3], T2=[0.04, 0.08], rho=[1.0, 0.7], kappa=[0.05], relaxivity=[0.01]
)
WATER = replace(WATER, relaxivity=torch.tensor([0.01, 0.02]))
PAIR = torrey.PGSE(
    q=8e4, direction=[0.48, 0.6, 0.64], delta=6e-3, Delta=2e-2, start=1e-3, TE=3e-2
)
LEAVES = (
    *(NODES.points, WATER.D, WATER.T2, WATER.rho, WATER.kappa, WATER.relaxivity),
    *(PAIR.q, PAIR.direction, PAIR.delta, PAIR.Delta, PAIR.start, PAIR.TE),
)
MANY = tuple(range(len(LEAVES)))


def real(f, *xs: Tensor, **options) -> Tensor:
    """Return a real number of all leaves."""
    points, D, T2, rho, kappa, relaxivity, q, direction, delta, Delta, start, TE = xs
    s = f(
        torrey.Nodes(points=points),
        TOPOLOGY,
        torrey.Water(D=D, T2=T2, rho=rho, kappa=kappa, relaxivity=relaxivity),
        torrey.PGSE(
            q=q, direction=direction, delta=delta, Delta=Delta, start=start, TE=TE
        ),
        **options,
    )
    return s.real + 0.3 * s.imag


def stepped(*xs: Tensor, steps: int = 5, order: int = 1) -> Tensor:
    return real(torrey.stepped, *xs, steps=steps, order=order)


def close(made: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert (made - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("name", names("signal_btpde_midpoint"))
def test_it_is_the_midpoint_rule_of_spindoctor(name: str) -> None:
    c = case(name)
    amount = (c.data["volumes"] * c.data["rho"]).sum()
    full = dict(zip(c.data["full_seq_index"].tolist(), range(99), strict=False))
    wanted = c.data["signal_btpde_midpoint"] / amount
    for s in np.flatnonzero(np.abs(wanted).sum((0, 1, 3))):
        x = encoding(c.sequences[s], c.data["qvals"][-1, s], c.data["dirs"][1])
        steps = torrey.count_steps(x, float(c.data["btpde_dt"]) * us)
        made = torrey.stepped_parts(*c.mesh, x, steps).numpy()
        assert np.abs(made - wanted[:, -1, s, 1]).max() <= 1e-10
        exact = c.data["signal_full"][:, -1, full[int(s)], 1] / amount
        assert np.abs(made - exact).max() <= 1e-4


def test_steps_converge_at_second_order_to_the_complete_model() -> None:
    exact = torrey.simulate(NODES, TOPOLOGY, WATER, PAIR)
    errors = []
    for steps in (40, 80):
        made = torrey.stepped(NODES, TOPOLOGY, WATER, PAIR, steps)
        errors.append(float((made - exact).abs()))
    assert 3.9 <= errors[0] / errors[1] <= 4.1
    estimate = torrey.stepped_error(NODES, TOPOLOGY, WATER, PAIR, 40)
    assert abs(estimate - errors[0]) <= 0.4 * errors[0]
    slow = torrey.stepped(NODES, TOPOLOGY, WATER, PAIR, 80, theta=1.0)
    assert float((slow - exact).abs()) >= 5 * errors[1]


@pytest.mark.parametrize("kind", ["cos", "waveform"])
def test_curved_waveforms_converge_too(kind: str) -> None:
    x = torrey.CosOGSE(q=2e5, direction=[0.48, 0.6, 0.64], delta=8e-3, Delta=1e-2)
    if kind == "waveform":
        vectors = 1e5 * torch.tensor([[0.0, 0, 0], [1, 0, 0], [-2, 1, 0], [1, -1, 0]])
        vectors = torch.cat([vectors, vectors[:1]])
        x = torrey.Waveform(times=[0, 2e-3, 4e-3, 6e-3, 8e-3], vectors=vectors, steps=8)
    exact = torrey.simulate(NODES, TOPOLOGY, WATER, x)
    assert (torrey.stepped(NODES, TOPOLOGY, WATER, x, 8) - exact).abs() <= 1e-5


def test_derivatives_of_all_inputs_in_both_modes() -> None:
    reverse, forward = grad(stepped, MANY)(*LEAVES), jacfwd(stepped, MANY)(*LEAVES)
    for k, (a, b) in enumerate(zip(reverse, forward, strict=True)):
        close(a, b, 1e-11)
        way = torch.linspace(1.0, 2.0, a.numel()).reshape(a.shape) * LEAVES[k]

        def moved(t: float, k: int = k, way: Tensor = way) -> Tensor:
            xs = [x + t * way if i == k else x for i, x in enumerate(LEAVES)]
            return stepped(*xs)

        h = 1e-4
        wanted = (8 * (moved(h) - moved(-h)) - moved(2 * h) + moved(-2 * h)) / (12 * h)
        assert abs((a * way).sum() - wanted) <= 1e-6 * abs(wanted) + 1e-11


def test_gradients_converge_to_those_of_the_complete_model() -> None:
    made = grad(lambda *xs: stepped(*xs, steps=200), MANY)(*LEAVES)
    wanted = grad(lambda *xs: real(torrey.simulate, *xs), MANY)(*LEAVES)
    for a, b in zip(made, wanted, strict=True):
        close(a, b, 1e-3)


def test_second_derivatives_on_request_and_refused_else() -> None:
    q, points = LEAVES[6], LEAVES[0]

    def f(points: Tensor, q: Tensor, order: int) -> Tensor:
        xs = [points, *LEAVES[1:6], q, *LEAVES[7:]]
        return stepped(*xs, order=order)

    bend = hessian(lambda p: f(p, q, 2))(points)
    way = torch.linspace(1.0, 2.0, 15).reshape(5, 3) * 1e-3
    h = 1e-3
    slopes = [grad(lambda p: f(p, q, 1))(points + t * h * way) for t in (1, -1)]
    wanted = (slopes[0] - slopes[1]) / (2 * h)
    close(torch.einsum("iajb,jb->ia", bend, way), wanted, 1e-6)
    mixed = jacrev(jacfwd(lambda t: f(points * t, q * t, 2)))(torch.tensor(1.0))
    again = jacfwd(jacfwd(lambda t: f(points * t, q * t, 2)))(torch.tensor(1.0))
    close(mixed, again, 1e-9)
    for twice in (
        lambda: hessian(lambda p: f(p, q, 1))(points),
        lambda: jacfwd(jacfwd(lambda v: f(points, v, 1)))(q),
        lambda: jacrev(jacrev(lambda v: f(points, v, 1)))(q),
    ):
        with pytest.raises(NotImplementedError, match="order=2"):
            twice()


def test_maps_are_loops() -> None:
    qs, points = torch.tensor([2e4, 8e4]), LEAVES[0]
    meshes = torch.stack([points, 1.03 * points])

    def f(points: Tensor, q: Tensor) -> Tensor:
        return stepped(points, *LEAVES[1:6], q, *LEAVES[7:])

    loop = torch.stack([jacrev(f)(points, q) for q in qs])
    for derivative in (jacfwd, jacrev):
        close(vmap(derivative(f), (None, 0))(points, qs), loop, 1e-11)
    both = torch.stack([jacrev(f)(p, q) for p, q in zip(meshes, qs, strict=True)])
    close(vmap(jacfwd(f))(meshes, qs), both, 1e-11)
    close(
        vmap(f)(meshes, qs),
        torch.stack([f(*x) for x in zip(meshes, qs, strict=True)]),
        1e-13,
    )
    outside = jacrev(lambda p: vmap(f, (None, 0))(p, qs))(points)
    close(outside, loop, 1e-11)


def test_single_precision_and_meta_tensors() -> None:
    small = [mrsim.to(x, torch.float32) for x in (NODES, WATER, PAIR)]
    made = torrey.stepped(small[0], TOPOLOGY, *small[1:], 12)
    assert made.dtype == torch.complex64
    assert (made - torrey.stepped(NODES, TOPOLOGY, WATER, PAIR, 12)).abs() <= 1e-5
    records = (NODES, TOPOLOGY, WATER, PAIR)
    away = [mrsim.to(x, device="meta") for x in records]
    assert torrey.stepped(*away, 12).is_meta


def test_numbers_of_steps_are_checked() -> None:
    assert torrey.count_steps(PAIR, 1e-3) == (6, 14, 1, 3)
    with pytest.raises(ValueError, match="for each of the 4 constant"):
        torrey.stepped(NODES, TOPOLOGY, WATER, PAIR, (1, 2))
    with pytest.raises(ValueError, match="inside a transform"):
        grad(lambda t: torrey.count_steps(replace(PAIR, delta=t), 1e-3)[0] * t)(
            PAIR.delta
        )
    with pytest.raises(MemoryError, match="take fewer steps"):
        torrey.stepped(NODES, TOPOLOGY, WATER, PAIR, 10**9)
