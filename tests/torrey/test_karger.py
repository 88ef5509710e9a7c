"""The model of Kärger: exchange, limits, agreement with the mesh and with analysis."""

import math

import torch
from torch import Tensor
from torch.func import jacfwd, jacrev

from mrsim import torrey
from mrsim.tree import replace

PAIR = torrey.PGSE(q=3e4, direction=[0.6, 0.0, 0.8], delta=3e-3, Delta=2e-2)
SLAB = torrey.mesh_slab([0.0, 3e-3, 5e-3], size=1e-3)
WATER = torrey.Water(
    D=torch.tensor([2e-3, 1e-3]),
    T2=torch.tensor([0.04, 0.08]),
    rho=torch.tensor([1.0, 0.7]),
    kappa=torch.tensor([0.05]),
)


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def test_rates_are_permeability_times_surface_over_volume() -> None:
    X = torrey.exchange_rates(*SLAB, replace(WATER, rho=None))
    assert error(X, 0.05 * torch.tensor([[-1 / 3e-3, 1 / 2e-3], [1 / 3e-3, -1 / 2e-3]]))
    wanted = 0.05 * torch.tensor([[-1 / 3e-3, 1 / 2e-3], [1 / 3e-3, -1 / 2e-3]])
    assert error(X, wanted) <= 1e-9
    X = torrey.exchange_rates(*SLAB, WATER)
    balance = torch.tensor([3.0, 2.0 * 0.7])
    assert (X @ balance).abs().max() <= 1e-12
    assert X.sum(0).abs().max() <= 1e-12
    surface = replace(WATER, kappa=None, relaxivity=torch.tensor([0.01, 0.0, 0.0]))
    X = torrey.exchange_rates(*SLAB, surface)
    assert error(X, torch.diag(torch.tensor([-0.01 / 3e-3, 0.0]))) <= 1e-12


def test_two_pools_without_gradient_are_a_matrix_exponential() -> None:
    made = torrey.karger(*SLAB, WATER, replace(PAIR, q=torch.tensor(0.0)))
    X = torrey.exchange_rates(*SLAB, WATER) - torch.diag(torch.tensor([25.0, 12.5]))
    start = torch.tensor([3.0, 1.4]) / 4.4
    assert error(made, torch.matrix_exp(0.023 * X) @ start) <= 1e-12


def test_without_exchange_pools_diffuse_freely() -> None:
    apart = replace(WATER, kappa=None)
    made = torrey.karger(*SLAB, apart, PAIR, steps=8)
    assert error(made, torrey.free_diffusion(*SLAB, apart, PAIR)) <= 1e-10
    one = torrey.free_diffusion(*SLAB, apart, PAIR)[1]
    wanted = 1.4 / 4.4 * math.exp(-0.023 / 0.08) * (-1e-3 * torrey.b_value(PAIR)).exp()
    assert abs(one - wanted) <= 1e-13


def test_fast_exchange_averages() -> None:
    water = replace(WATER, T2=None, rho=None, kappa=torch.tensor([1e4]))
    made = torrey.karger(*SLAB, water, PAIR).sum()
    mean = (3 * 2e-3 + 2 * 1e-3) / 5
    assert abs(made - (-mean * torrey.b_value(PAIR)).exp()) <= 1e-5


def test_steps_converge_at_fourth_order() -> None:
    strong = replace(PAIR, q=torch.tensor(9e4))
    runs = [torrey.karger(*SLAB, WATER, strong, steps=n) for n in (2, 4, 64)]
    assert 10 <= error(runs[0], runs[2]) / error(runs[1], runs[2]) <= 22


def test_it_is_the_mesh_where_layers_mix_fast_and_exchange_is_slow() -> None:
    nodes, topology = torrey.mesh_slab([0.0, 3e-3, 5e-3], size=1e-3)
    rates = torrey.exchange_rates(nodes, topology, WATER)
    still = replace(PAIR, q=torch.tensor(0.0))
    errors = []
    for kappa in (0.05, 0.005):
        water = replace(WATER, kappa=torch.tensor([kappa]))
        basis = torrey.laplace(nodes, topology, water)
        exact = torrey.signal_parts(basis, still).real
        errors.append(error(torrey.karger(nodes, topology, water, still), exact))
    assert errors[0] <= 0.05 * float(rates.abs().max()) * 0.023
    assert errors[1] <= 0.2 * errors[0]


def test_tensors_may_be_given() -> None:
    own = WATER.D[:, None, None] * torch.eye(3)
    made = torrey.karger(*SLAB, WATER, PAIR, D=own)
    assert error(made, torrey.karger(*SLAB, WATER, PAIR)) == 0
    slow = torrey.karger(*SLAB, WATER, PAIR, D=0.5 * own)
    assert (slow > made).all()


def test_derivatives_of_points_and_permeability() -> None:
    nodes, topology = SLAB

    def f(points: Tensor, kappa: Tensor, q: Tensor) -> Tensor:
        water = replace(WATER, kappa=kappa)
        x = replace(PAIR, q=q)
        mesh = torrey.Nodes(points=points), topology
        return torrey.karger(*mesh, water, x, steps=2).sum()

    assert WATER.kappa is not None
    leaves = (nodes.points, WATER.kappa, PAIR.q)
    reverse = jacrev(f, (0, 1, 2))(*leaves)
    for k, a in enumerate(reverse):
        assert error(a, jacfwd(f, k)(*leaves)) <= 1e-9 * float(a.abs().max())
        way = torch.linspace(1.0, 2.0, a.numel()).reshape(a.shape) * leaves[k]
        pair = [
            f(*(x + h * way if i == k else x for i, x in enumerate(leaves)))
            for h in (1e-4, -1e-4)
        ]
        wanted = (pair[0] - pair[1]) / 2e-4
        assert abs((a * way).sum() - wanted) <= 1e-6 * abs(wanted)
