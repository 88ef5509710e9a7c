"""What is known of an unknown before the fit: a normal distribution of a transform."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from mrsim._convert import as_tensor
from mrsim.fit.local import Local
from mrsim.tree import get


def identity(x: Tensor) -> Tensor:
    """Return the argument."""
    return x


class Prior(NamedTuple):
    """g(θ) is normal with this mean and standard deviation, g applied entry by entry.

    >>> import torch
    >>> from mrsim.fit import Prior
    >>> about_70_ms = Prior(mean=-2.66, sd=0.3, of=torch.log)
    """

    mean: float | Tensor  # of g(θ), () or like the field
    sd: float | Tensor  # of g(θ), () or like the field
    of: Callable[[Tensor], Tensor] = identity  # g, monotonic: torch.log, torch.logit, …


Priors = Mapping[str, Prior]


def numbers(
    priors: Priors, names: Sequence[str], base: Any, like: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and standard deviation of each prior, flat as the field.

    Args:
        priors: name → prior.
        names: the unknowns.
        base: the record that holds them.
        like: whose dtype and device they take.

    Returns:
        name → (mean, sd).

    Raises:
        ValueError: a prior is of no unknown, or does not have the field's shape.
    """
    for name in set(priors) - set(names):
        raise ValueError(
            f"fit: a prior is given for {name!r}, but the unknowns are {tuple(names)}"
        )
    made = {}
    for name, prior in priors.items():
        shape = get(base, name).shape
        given = [as_tensor(v, like).to(like) for v in (prior.mean, prior.sd)]
        if any(v.ndim > len(shape) for v in given):
            raise ValueError(
                f"fit: the prior of {name} needs mean and sd as numbers or of its shape"
                f" {tuple(shape)}, got {[tuple(v.shape) for v in given]}"
            )
        mean, sd = (v.expand(shape).reshape(-1) for v in given)
        made[name] = mean, sd
    return made


def add(
    local: Local,
    x: Tensor,
    names: Sequence[str],
    base: Any,
    priors: Priors,
    given: Mapping[str, tuple[Tensor, Tensor]],
) -> Local:
    """Add ½ Σ ((g(θ) − mean)/sd)² to a cost that is a negative log-likelihood.

    Args:
        local: the likelihood's cost.
        x: the unknowns, flat.
        names: of the unknowns.
        base: the record that holds them.
        priors: name → prior.
        given: name → (mean, sd), from `numbers`.

    Returns:
        The cost whose minimum is the mode of the posterior.
    """
    parts = []
    for name, part in zip(
        names, x.split([get(base, n).numel() for n in names]), strict=True
    ):
        if name not in priors:
            parts.append((torch.zeros_like(part), torch.zeros_like(part)))
            continue
        mean, sd = given[name]
        value, slope, *_ = jvp(priors[name].of, (part,), (torch.ones_like(part),))
        parts.append(((value - mean) / sd, slope / sd))
    off, slope = (torch.cat(p) for p in zip(*parts, strict=True))
    return local._replace(
        cost=local.cost + off.square().sum() / 2,
        slope=local.slope + off * slope,
        curve=local.curve + torch.diag_embed(slope.square()),
        silent=local.silent & (slope == 0),
    )
