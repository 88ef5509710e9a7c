"""Coefficients of single steps, and their products with states.

A product of a coefficient (c, dc) and a state (x, dx) is (c·x, c·dx + dc·x).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.epg.steps import Steps


class Coef(NamedTuple):
    """A coefficient of one step and, in a derivative pass, its tangents."""

    value: Tensor  # broadcasts against (pool, order, *batch)
    tangent: Tensor | None  # (copy, 1, …), first copy zero


State = tuple[Tensor | None, Tensor | None, Tensor | None]  # P, Q, ζ
Columns = list[Coef]  # of a matrix over pools, or the one of a scalar


class Rows(NamedTuple):
    """The coefficients of all steps, taken apart."""

    H: Sequence[Coef]
    h: Sequence[Coef]
    z: Sequence[Coef]
    d: Sequence[Coef]
    half: Sequence[Coef]
    re: Sequence[Coef]
    im: Sequence[Coef]
    E1: Sequence[Coef]
    grown: Sequence[Coef]
    mix_re: Sequence[Columns]
    mix_im: Sequence[Columns]
    relax: Sequence[Columns]
    bound: Sequence[Coef]
    order: Sequence[Coef]
    cross: Sequence[Coef]
    own: Sequence[tuple[Columns, Columns]]  # re and im; P, Q and ζ of each step
    free: int  # pools with transverse magnetisation


def take_apart(steps: Steps, tangents: Steps | None) -> Rows:
    """Return the coefficients of each step, shaped to meet states."""

    def of(name: str, between: int) -> list[Coef]:
        return _coefs(
            getattr(steps, name), tangents and getattr(tangents, name), between
        )

    def columns(name: str) -> list[Columns]:
        value, moved = getattr(steps, name), tangents and getattr(tangents, name)
        if not len(value):
            return []
        sources = [
            _coefs(value[:, :, q], None if moved is None else moved[:, :, :, q], 1)
            for q in range(value.shape[2])
        ]
        return [list(columns) for columns in zip(*sources, strict=True)]

    own = [_tables(v, tangents and tangents.own[i]) for i, v in enumerate(steps.own)]
    return Rows(
        H=of("H", 2),
        h=of("h", 2),
        z=of("z", 2),
        d=of("d", 2),
        half=of("half", 2),
        re=of("re", 2),
        im=of("im", 2),
        E1=of("E1", 2),
        grown=of("grown", 1 if len(steps.relax) else 2),
        mix_re=columns("mix_re"),
        mix_im=columns("mix_im"),
        relax=columns("relax"),
        bound=of("bound", 1),
        order=of("order", 1),
        cross=of("cross", 1),
        own=own,
        free=steps.read.shape[2],
    )


def _tables(value: Tensor, tangent: Tensor | None) -> tuple[Columns, Columns]:
    """Take (part, to, from, order, *batch) apart into columns of re and im."""
    found: list[Columns] = []
    for part in (0, 1):
        columns = value[part].unbind(1)
        moved: Sequence[Tensor | None] = (None,) * len(columns)
        if tangent is not None:
            padded = torch.cat([torch.zeros_like(tangent[:1]), tangent])
            moved = padded[:, part][:, None].unbind(3)
        pairs = zip(columns, moved, strict=True)
        found.append([Coef(v, t) for v, t in pairs])
    return found[0], found[1]


def _coefs(value: Tensor, tangent: Tensor | None, between: int) -> list[Coef]:
    """Take steps apart; with ``between`` 1 an axis of pools comes after the step."""
    value = value.unsqueeze(2) if between == 1 and value.ndim > 1 else value
    values = value.unbind(0)
    if tangent is None:
        return [Coef(v, None) for v in values]
    tangent = tangent.unsqueeze(3) if between == 1 and tangent.ndim > 2 else tangent
    padded = torch.cat([torch.zeros_like(tangent[:1]), tangent])[:, :, None]
    if between == 2:
        padded = padded[:, :, None, None]
    return [Coef(v, t) for v, t in zip(values, padded.unbind(1), strict=True)]


def times(c: Coef, x: Tensor) -> Tensor:
    """Return c·x and its derivatives."""
    y = c.value * x
    return y if c.tangent is None else torch.addcmul(y, c.tangent, x[:1])


def plus_times(y: Tensor, c: Coef, x: Tensor) -> Tensor:
    """Return y + c·x and its derivatives."""
    y = torch.addcmul(y, c.value, x)
    return y if c.tangent is None else torch.addcmul(y, c.tangent, x[:1])


def mixed(columns: Columns, x: Tensor) -> Tensor:
    """Multiply a matrix over pools and a state."""
    y = times(columns[0], x[:, :, :1])
    for q, column in enumerate(columns[1:], 1):
        y = plus_times(y, column, x[:, :, q : q + 1])
    return y


def quarter(x: Tensor) -> Tensor:
    """Multiply (re, im) by i."""
    return torch.cat([-x[:, 1:], x[:, :1]], 1)
