"""Train networks to reproduce signals through the bi-exponential model."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._check import check_floats, check_positive
from mrsim.ivim._limits import Bounds, limits
from mrsim.ivim.acquisition import Acquisition, check_data
from mrsim.ivim.layers import Weights, adam, copy, initial, layers, set_rate
from mrsim.ivim.physics_net import Box, PhysicsNet, decoded, seen, unweighted
from mrsim.ivim.voxels import bar

BARBIERI: Mapping[str, Any] = {
    "outputs": "abs",
    "hidden": 3,
    "rate": 1e-3,
    "decay": False,
    "epochs": 1000,
    "patience": 10,
    "normalise": False,
}
"""Options of `train_physics` that are those of Barbieri 2020 (their demo notebook)."""

_BOX: Bounds = {"S0": (0.7, 1.3), "f": (0.0, 0.7)}  # of normalised signals


class Trained(NamedTuple):
    """Networks and how their training went."""

    net: PhysicsNet  # of each member the weights of its best epoch, copied
    last: PhysicsNet  # of each member those at its end
    losses: Tensor  # (epoch, member) mean square residual


def train_physics(
    data: Tensor,
    acquisition: Acquisition,
    generator: torch.Generator,
    *,
    targets: Tensor | None = None,
    bounds: Bounds | None = None,
    outputs: str = "ordered",
    hidden: int | Sequence[int] = (32, 32),
    rate: float = 2e-3,
    decay: bool = True,
    epochs: int = 15,
    patience: int | None = None,
    batch: int = 128,
    normalise: bool = True,
    members: int = 1,
    progress: bool = False,
) -> Trained:
    """Train a network to reproduce signals through the bi-exponential model.

    loss = mean (S(b; net(data)) − data)²: no parameters need to be known. With
    ``targets``, further measurements (or simulations) of the same voxels, the network
    predicts these, and cannot learn the noise. Outputs are bounded, with D < Dp by
    construction; ``**BARBIERI`` gives their network instead.

    Args:
        data: (voxel, sample) signals of the voxels to train on, without background.
        acquisition: their b values.
        generator: source of weights and of the order of voxels.
        targets: (voxel, sample) second signals of the same voxels.
        bounds: name → (lower, upper) of S0 [of the mean signal at b = 0], f, Dp, D.
        outputs: ``"ordered"``, or ``"abs"``: unbounded |x|, labels may swap.
        hidden: widths of the hidden layers, or their number, each as wide as the input.
        rate: of Adam.
        decay: let the rate fall to 0 along a half cosine.
        epochs: at most.
        patience: epochs without a smaller loss after which a member stops; never if
            ``None``.
        batch: voxels for a step.
        normalise: divide data and targets by the mean signal of data at b = 0.
        members: independent networks trained at once, each with its own weights and
            order.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        The networks.

    Raises:
        ValueError: shapes do not match, there are fewer voxels than a batch, a number
            is not positive, or the outputs are unknown.

    Reference:
        Barbieri 2020, Magn Reson Med 83:312; Kaandorp 2021, Magn Reson Med 86:2250;
        Lehtinen 2018, arXiv:1803.04189 (targets).

    >>> import torch
    >>> from mrsim import ivim
    >>> g = torch.Generator().manual_seed(0)
    >>> q = ivim.Acquisition(b=[0.0, 20.0, 200.0, 800.0])
    >>> y = torch.tensor([1.0, 0.9, 0.7, 0.4]) + 0.01 * torch.rand(256, 4, generator=g)
    >>> ivim.train_physics(y, q, g, epochs=3, members=2).losses.shape
    torch.Size([3, 2])
    """
    numbers = {"batch": batch, "epochs": epochs, "members": members}
    check_positive("ivim.train_physics", **numbers, patience=patience)
    x, y = _pairs(data, targets, acquisition, outputs, batch, normalise)
    box = limits({**_BOX, **(bounds or {})})
    b, width = acquisition.b, x.shape[-1]
    inside = [width] * hidden if isinstance(hidden, int) else list(hidden)
    sizes = [width, *inside, 3 if outputs == "abs" else 4]
    weights = {
        n: w.to(x).requires_grad_()
        for n, w in initial(sizes, generator, members).items()
    }
    loss = vmap(_misfit(layers(weights, "ELU"), seen(b, b, outputs), outputs, box))
    optimiser = adam(weights, rate)
    steps = len(x) // batch

    def descend(epoch: int) -> Tensor:
        """Return the loss of each member during an epoch."""
        parts = [torch.randperm(len(x), generator=generator) for _ in range(members)]
        order, total = torch.stack(parts).to(x.device), x.new_zeros(members)
        for k in range(steps):
            set_rate(optimiser, rate, (epoch + k / steps) / epochs if decay else 0.0)
            at = order[:, k * batch : (k + 1) * batch]
            each = loss(weights, x[at], y[at])
            optimiser.zero_grad()
            each.sum().backward()
            optimiser.step()
            total = total + each.detach() / steps
        return total

    rounds = bar(range(epochs), progress)
    best, last, losses = _descended(weights, descend, rounds, patience or math.inf)
    net = PhysicsNet(best, b, outputs, box)
    return Trained(net, net._replace(weights=last), losses)


def _pairs(
    data: Tensor,
    targets: Tensor | None,
    acquisition: Acquisition,
    outputs: str,
    batch: int,
    normalise: bool,
) -> tuple[Tensor, Tensor]:
    """Return what the networks see and what they shall predict."""
    check_floats("ivim.train_physics", data=data, b=acquisition.b, targets=targets)
    check_data(data, acquisition)
    shape = tuple(data.shape)
    if outputs not in ("ordered", "abs"):
        raise ValueError(f"ivim: outputs must be 'ordered' or 'abs', got {outputs!r}")
    if data.ndim != 2 or len(data) < batch:
        raise ValueError(
            f"ivim.train_physics: data must have shape (voxel, sample) with at least"
            f" one batch of {batch} voxels, got {shape}"
        )
    if targets is not None and targets.shape != data.shape:
        raise ValueError(
            f"ivim.train_physics: targets must have the shape of data, {shape}, got"
            f" {tuple(targets.shape)}"
        )
    wanted = data if targets is None else targets
    if normalise:
        first = data[:, unweighted(acquisition.b)].mean(-1, keepdim=True)
        data, wanted = data / first, wanted / first
    if not (data.isfinite().all() and wanted.isfinite().all()):
        raise ValueError(
            "ivim.train_physics: data or targets hold NaN or infinity, or their mean at"
            " b = 0 is 0; leave these voxels out"
        )
    b = acquisition.b
    return seen(data, b, outputs), seen(wanted, b, outputs)


def _descended(
    weights: Weights,
    descend: Callable[[int], Tensor],
    rounds: Iterable[int],
    limit: float,
) -> tuple[Weights, Weights, Tensor]:
    """Return of each member the best and the last weights, and all losses."""
    best = last = copy(weights)
    first = next(iter(weights.values()))
    least = first.new_full(first.shape[:1], math.inf)
    waiting, losses = torch.zeros(len(first)), []
    for epoch in rounds:
        total = descend(epoch)
        running = waiting < limit
        better = running & (total < least).cpu()
        least = torch.where(better, total, least)
        best, last = _taken(best, weights, better), _taken(last, weights, running)
        waiting = torch.where(better, 0, waiting + 1)
        losses.append(total)
        if not (waiting < limit).any():
            break
    return best, last, torch.stack(losses)


def _misfit(
    network: Callable[[Weights, Tensor], Tensor],
    shown: Tensor,
    outputs: str,
    box: Box,
) -> Callable[[Weights, Tensor, Tensor], Tensor]:
    """Return the mean squared difference of what a network decodes from its targets."""

    def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        p = decoded(network(weights, x), outputs, box)
        S0, f, Dp, D = (p[n].unsqueeze(-1) for n in ("S0", "f", "Dp", "D"))
        s = S0 * (f * torch.exp(-shown * Dp) + (1 - f) * torch.exp(-shown * D))
        return (s - y).square().mean()

    return loss


def _taken(old: Weights, new: Weights, chosen: Tensor) -> Weights:
    """Copy the weights of the chosen members."""
    out = {}
    for name, w in old.items():
        mask = chosen.to(w.device).reshape(-1, *(1,) * (w.ndim - 1))
        out[name] = torch.where(mask, new[name].detach(), w)
    return out
