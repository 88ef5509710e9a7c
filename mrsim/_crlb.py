"""Fisher information and Cramér-Rao bounds of any signal model, by field name.

Samples s(θ) with independent Gaussian noise of standard deviation σₖ in the real (and,
if s is complex, in the imaginary) channel, averaged wₖ times, carry the information
F = Σₖ wₖ/σₖ² Re(∂sₖ/∂θᵢ* ∂sₖ/∂θⱼ); no unbiased estimate of θ has a covariance below F⁻¹
(Kay 1993, Fundamentals of Statistical Signal Processing I, ch. 3).
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._bound import Rule, bound, information, variances
from mrsim._check import concrete
from mrsim._covariance import Bound
from mrsim.transform import flattened, forward_rows, promoted
from mrsim.tree import get, metadata, names as field_names, only


def fisher(
    f: Callable[..., Tensor],
    *unknowns: str,
    sigma: float | Tensor,
    nuisance: Sequence[str] = (),
    weights: Tensor | None = None,
    prior: Mapping[str, Any] | None = None,
) -> Callable[..., Tensor]:
    """Make a function that returns the Fisher information of ``f``'s parameters.

    F = Σₖ wₖ/σₖ² Re(Jₖᵢ* Jₖⱼ) + δᵢⱼ/sdᵢ². A column of J that is rounding noise,
    ‖scaleᵢ Jᵢ‖ ≤ C eps ‖s‖ with C = 100 √samples, gives exact zeros. The scale is the
    parameter's largest absolute entry, but at least 1 unit for fields whose neutral
    value is 0 (off-resonance), and 1 for any field that is zero throughout.

    Args:
        f: a function of records that returns the signal, real or complex.
        *unknowns: names of fields in any argument, dotted for nested records; a field
            that is ``None`` takes its neutral value. No name: every present leaf of the
            first argument.
        sigma: standard deviation of each real channel [signal units], () or like s.
        nuisance: names of further unknowns, of no interest in themselves.
        weights: how often each sample is averaged [1], like s; any real number ≥ 0.
        prior: name → standard deviation of what is known beforehand [the field's unit],
            () or like the field (van Trees 1968).

    Returns:
        A function of ``f``'s arguments that returns F, of shape (p, p): the unknowns,
        then the nuisances, each flattened.

    >>> import mrsim, torch
    >>> decay = lambda tissue, t: tissue.M0 * (-t / tissue.T2).exp()
    >>> tissue, t = mrsim.Tissue(T1=1.0, T2=0.1), torch.tensor([0.0, 0.1])
    >>> mrsim.fisher(decay, "M0", "T2", sigma=0.1)(tissue, t)
    tensor([[ 113.5335,  135.3353],
            [ 135.3353, 1353.3528]])
    """

    def run(*args: Any) -> Tensor:
        wanted, others = _wanted(unknowns, nuisance, args)
        found = _measure(f, (*wanted, *others), sigma, weights, prior or {}, args)
        return information(found.rule, *found.inputs).to(found.rule.dtype)

    return run


def crlb(
    f: Callable[..., Tensor],
    *unknowns: str,
    sigma: float | Tensor,
    nuisance: Sequence[str] = (),
    weights: Tensor | None = None,
    prior: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Make a function that returns the smallest variance of each unknown.

    var θᵢ ≥ (F⁻¹)ᵢᵢ. What the signal does not depend on, and what it depends on only
    in combination with others, has the variance inf with derivative 0; parameters that
    take no part in it keep theirs. Outside transforms a warning names these parameters.
    A NaN parameter gives NaN, in its voxel alone.

    Args:
        f: a function of records that returns the signal, real or complex.
        *unknowns: as in `fisher`.
        sigma: as in `fisher`.
        nuisance: as in `fisher`; unknown too, but left out of the result.
        weights: as in `fisher`.
        prior: as in `fisher`.

    Returns:
        A function of ``f``'s arguments that returns a record like the argument that
        holds the unknowns: variances [the field's unit squared], of the field's shape,
        and ``None`` elsewhere. Unknowns of several arguments give a tuple of records.

    >>> import mrsim, torch
    >>> decay = lambda tissue, t: tissue.M0 * (-t / tissue.T2).exp()
    >>> tissue, t = mrsim.Tissue(T1=1.0, T2=0.1), torch.tensor([0.0, 0.1])
    >>> mrsim.crlb(decay, "T2", nuisance=["M0"], sigma=0.01)(tissue, t).T2.sqrt()
    tensor(0.0029)
    """

    def run(*args: Any) -> Any:
        wanted, others = _wanted(unknowns, nuisance, args)
        found = _measure(f, (*wanted, *others), sigma, weights, prior or {}, args)
        each = variances(found.rule, *found.inputs)
        if concrete(each[0]) and any(bool(x.isinf().any()) for x in each):
            labels = _labels((*wanted, *others), found.rule.shapes)
            _warn(labels, bound(found.rule, *found.inputs))
        made: dict[int, dict[str, Tensor]] = {i: {} for i in sorted(found.owners)}
        for name, i, variance in zip(wanted, found.owners, each, strict=False):
            made[i][name] = variance
        records = tuple(
            only(found.args[i], has, has.__getitem__) for i, has in made.items() if has
        )
        return records[0] if len(records) == 1 else records

    return run


def average(
    cost: Callable[..., Tensor], weights: Tensor | None = None
) -> Callable[..., Tensor]:
    """Make a function that averages a cost over a batch of tissues.

    Args:
        cost: a function of one tissue and further arguments; a scalar.
        weights: (tissue,) relative weights [1]; equal by default.

    Returns:
        A function of the batch (each leaf with its axis first) and the same arguments.

    >>> import mrsim, torch
    >>> tissues = mrsim.Tissue(T1=torch.ones(2), T2=torch.tensor([0.1, 0.3]))
    >>> mrsim.average(lambda tissue: tissue.T2)(tissues)
    tensor(0.2000)
    """

    def run(batch: Any, *rest: Any) -> Tensor:
        costs = _each(cost, batch, rest)
        share = torch.ones_like(costs) if weights is None else weights
        return (costs * share).sum() / share.sum()

    return run


def worst(
    cost: Callable[..., Tensor], power: float | None = None
) -> Callable[..., Tensor]:
    """Make a function that takes the largest cost over a batch of tissues.

    Args:
        cost: a function of one tissue and further arguments; a scalar.
        power: take the smooth (Σ costᵖ / n)^(1/p) of positive costs instead; it tends
            to the largest from below as p grows.

    Returns:
        A function of the batch (each leaf with its axis first) and the same arguments.

    >>> import mrsim, torch
    >>> tissues = mrsim.Tissue(T1=torch.ones(2), T2=torch.tensor([0.1, 0.3]))
    >>> mrsim.worst(lambda tissue: tissue.T2)(tissues)
    tensor(0.3000)
    """

    def run(batch: Any, *rest: Any) -> Tensor:
        costs = _each(cost, batch, rest)
        top = costs.detach().amax()
        if power is None:
            return costs.amax()
        usable = top.isfinite() & (top > 0)
        unit = torch.where(usable, top, 1.0)
        ratios = torch.where(usable, costs / unit, 1.0)
        return torch.where(usable, unit * (ratios**power).mean() ** (1 / power), top)

    return run


def _each(cost: Callable[..., Tensor], batch: Any, rest: tuple[Any, ...]) -> Tensor:
    return torch.func.vmap(cost, in_dims=(0,) + (None,) * len(rest))(batch, *rest)


class _Found(NamedTuple):
    rule: Rule
    inputs: tuple[Tensor, ...]  # the Jacobian's rows and all that bounds them
    args: list[Any]  # the arguments, named fields promoted
    owners: list[int]  # which argument holds each name


def _wanted(
    unknowns: tuple[str, ...], nuisance: Sequence[str], args: tuple[Any, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    others = (nuisance,) if isinstance(nuisance, str) else tuple(nuisance)
    present = (n for n in field_names(args[0]) if get(args[0], n) is not None)
    chosen = unknowns or tuple(n for n in present if n not in others)
    if len({*chosen, *others}) < len(chosen) + len(others):
        raise ValueError(
            f"crlb: a name is given twice in {(*chosen, *others)}; a field is either"
            f" an unknown or a nuisance"
        )
    return chosen, others


def _measure(
    f: Callable[..., Tensor],
    wanted: tuple[str, ...],
    sigma: float | Tensor,
    weights: Tensor | None,
    prior: Mapping[str, Any],
    args: tuple[Any, ...],
) -> _Found:
    given, owners = promoted(args, wanted)
    value, rows = forward_rows(*flattened(f, given, owners, wanted))
    if not isinstance(value, Tensor):
        raise TypeError(
            f"crlb: f must return one tensor, the signal, got {type(value).__name__};"
            f" stack or concatenate its parts"
        )
    w = _spread("sigma", sigma, value) ** -2
    if weights is not None:
        w = w * _spread("weights", weights, value)
    named = list(zip(owners, wanted, strict=True))
    values = [get(given[i], n) for i, n in named]
    more = (_prior(prior, wanted, values),) if prior else ()
    rule = Rule(
        floors=tuple(_floor(given[i], n) for i, n in named),
        shapes=tuple(x.shape for x in values),
        dtype=value.real.dtype,
        prior=bool(prior),
    )
    return _Found(rule, (rows, value, w, *values, *more), given, owners)


def _spread(name: str, x: float | Tensor, like: Tensor) -> Tensor:
    """Return a factor for each entry of a tensor, flat, or one for all."""
    given = torch.as_tensor(x, dtype=torch.float64, device=like.device)
    if not given.ndim:
        return given.reshape(1)
    try:
        return given.expand(like.shape).reshape(-1)
    except RuntimeError as e:
        raise ValueError(
            f"crlb: {name} must be a scalar or have shape {tuple(like.shape)},"
            f" got {tuple(given.shape)}"
        ) from e


def _floor(owner: Any, name: str) -> float:
    """Return the least size of a parameter's natural change."""
    head, _, last = name.rpartition(".")
    holder = get(owner, head) if head else owner
    return 1.0 if metadata(type(holder), last).get("neutral") == 0 else 0.0


def _prior(
    prior: Mapping[str, Any], wanted: Sequence[str], values: Sequence[Tensor]
) -> Tensor:
    unused = set(prior) - set(wanted)
    if unused:
        raise ValueError(
            f"crlb: prior names {sorted(unused)}, which are not among the unknowns"
            f" {tuple(wanted)}; add them to nuisance"
        )
    parts = [
        _spread(f"prior of {n}", prior.get(n, math.inf), x).expand(x.numel())
        for n, x in zip(wanted, values, strict=True)
    ]
    return torch.diag_embed(torch.cat(parts) ** -2)


def _labels(wanted: Sequence[str], shapes: Sequence[torch.Size]) -> list[str]:
    return [
        name if shape == () else f"{name}[{k}]"
        for name, shape in zip(wanted, shapes, strict=True)
        for k in range(shape.numel())
    ]


def _warn(labels: Sequence[str], bound: Bound) -> None:
    whys = {"no effect on the signal": bound.absent, "only combined": bound.coupled}
    reasons = [
        f"{', '.join(compress(labels, gone.tolist()))} ({why})"
        for why, gone in whys.items()
        if gone.any()
    ]
    if reasons:
        warnings.warn(
            f"crlb: the variance is inf for {' and '.join(reasons)};"
            f" leave them out, give them a prior, or change the sequence",
            UserWarning,
            stacklevel=3,
        )
