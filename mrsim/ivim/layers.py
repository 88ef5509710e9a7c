"""Fully connected networks: weights as plain tensors, applied by pure functions."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

Weights = dict[str, Tensor]


def layers(weights: Weights, activation: str) -> Callable[[Weights, Tensor], Tensor]:
    """Return the function of a fully connected network, for use under vmap.

    Args:
        weights: as of `initial`, for the sizes.
        activation: ``"ELU"``, ``"SiLU"``, …, a class of `torch.nn`.

    Returns:
        A function of weights and (..., input), that returns (..., output).
    """
    modules: list[nn.Module] = []
    for name, w in weights.items():
        if name.endswith("weight"):
            after, before = w.shape[-2:]
            modules += [
                nn.Linear(before, after, device="meta"),
                getattr(nn, activation)(),
            ]
    network = nn.Sequential(*modules[:-1])
    return lambda weights, x: functional_call(network, weights, (x,))


def initial(sizes: Sequence[int], generator: torch.Generator, *batch: int) -> Weights:
    """Draw the weights of a fully connected network as `torch.nn.Linear` does.

    Args:
        sizes: of the input, the hidden layers and the output.
        generator: the source of random numbers.
        *batch: leading axes, for several networks.

    Returns:
        name → float32 tensor, even in ±1/√inputs.
    """
    weights = {}
    for k, (before, after) in enumerate(pairwise(sizes)):
        for name, shape in (("weight", (after, before)), ("bias", (after,))):
            u = torch.rand(*batch, *shape, generator=generator, dtype=torch.float32)
            weights[f"{2 * k}.{name}"] = (2 * u - 1) / math.sqrt(before)
    return weights


def adam(weights: Weights, rate: float) -> torch.optim.Optimizer:
    """Return Adam for the weights."""
    return torch.optim.Adam(list(weights.values()), lr=rate, fused=True)


def copy(weights: Weights) -> Weights:
    """Return weights that later steps do not change."""
    return {n: w.detach().clone() for n, w in weights.items()}


def set_rate(optimiser: torch.optim.Optimizer, rate: float, part: float) -> None:
    """Set the rate at a part of the way along a half cosine to 0."""
    for group in optimiser.param_groups:
        group["lr"] = rate * (1 + math.cos(math.pi * part)) / 2
