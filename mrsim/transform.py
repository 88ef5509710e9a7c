"""Derivatives by field name: `jac`, `value_and_jac`, `jvp`.

torch.func's jacfwd and jacrev refuse complex outputs, have no chunks in forward mode and
differentiate whole arguments. These do what a signal model needs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mrsim.tree import (
    get,
    is_record,
    names as field_names,
    only,
    promote,
    put,
    tree_flatten,
    tree_map,
    tree_unflatten,
)

Mode = Literal["forward", "reverse"]


def locate(args: Sequence[Any], name: str) -> int:
    """Return which argument holds a field name.

    Raises:
        ValueError: no record holds it, or more than one does.
    """
    found = [i for i, x in enumerate(args) if is_record(x) and name in field_names(x)]
    if len(found) == 1:
        return found[0]
    have = {type(x).__name__: list(field_names(x)) for x in args if is_record(x)}
    if not found:
        raise ValueError(f"no argument has a field {name!r}; the fields are {have}")
    raise ValueError(
        f"{name!r} is a field of {len(found)} arguments ({', '.join(have)});"
        f" close over one of them: jac(lambda x: f(x, other), {name!r})"
    )


def promoted(args: Sequence[Any], wanted: Sequence[str]) -> tuple[list[Any], list[int]]:
    """Give the named fields a value in the arguments that own them.

    Returns:
        The arguments, and the position of the owner of each name.
    """
    out = list(args)
    owners = [locate(args, name) for name in wanted]
    for i, name in zip(owners, wanted, strict=True):
        out[i] = promote(out[i], name)
    return out, owners


def value_and_jac(
    f: Callable[..., Any],
    *wanted: str,
    mode: Mode = "forward",
    chunk_size: int | None = None,
) -> Callable[..., tuple[Any, Any]]:
    """Make a function that returns ``f``'s value and its Jacobian by field name.

    Args:
        f: a function of records; tensors (also complex) out.
        *wanted: names of fields, dotted for nested records (``"exchange.k"``), looked
            up in all arguments; a field that is ``None`` takes its neutral value. No
            name: every present leaf of the first argument.
        mode: ``"forward"`` (few parameters, many samples) or ``"reverse"``.
        chunk_size: how many tangents (or cotangents) travel at once; all by default.

    Returns:
        ``(value, jacobian)``: the Jacobian is a record like the argument that holds the
        names, with ``None`` elsewhere; a leaf has shape ``(*output, *field)``. Names in
        several arguments give a tuple of records, one for each of these arguments.
    """

    def run(*args: Any) -> tuple[Any, Any]:
        chosen = wanted or tuple(
            n for n in field_names(args[0]) if get(args[0], n) is not None
        )
        given, owners = promoted(args, chosen)
        leaves, structure = tree_flatten(tuple(given))
        places = tree_unflatten(list(range(len(leaves))), structure)
        where = [get(places[i], n) for i, n in zip(owners, chosen, strict=True)]

        def flat(*xs: Any) -> Any:
            return f(*tree_unflatten(list(xs), structure))

        pick = _forward if mode == "forward" else _reverse
        value, columns = pick(flat, leaves, where, chunk_size)
        parts = {
            i: [(n, c) for n, c, o in zip(chosen, columns, owners, strict=True) if o == i]
            for i in sorted(set(owners))
        }
        made = tuple(only(given[i], dict(p), dict(p).__getitem__) for i, p in parts.items())
        return value, made[0] if len(made) == 1 else made

    return run


def jac(
    f: Callable[..., Any],
    *wanted: str,
    mode: Mode = "forward",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Make a function that returns the Jacobian of ``f`` by field name.

    J.field = ∂f/∂field, of shape ``(*output, *field)``; see `value_and_jac`.

    Args:
        f: a function of records; tensors (also complex) out.
        *wanted: names of fields, dotted for nested records.
        mode: ``"forward"`` or ``"reverse"``.
        chunk_size: how many tangents (or cotangents) travel at once.

    Returns:
        A function of the same arguments.

    >>> import mrsim, torch
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> t = torch.tensor([0.0, 0.1])
    >>> mrsim.jac(decay, "T2")(mrsim.Tissue(T1=1.0, T2=0.1), t).T2
    tensor([0.0000, 3.6788])
    """
    both = value_and_jac(f, *wanted, mode=mode, chunk_size=chunk_size)
    return lambda *args: both(*args)[1]


def jvp(f: Callable[..., Any], directions: Mapping[str, Any]) -> Callable[..., Any]:
    """Make a function that returns ``f``'s value and one directional derivative.

    Args:
        f: a function of records.
        directions: name of a field → direction [the field's unit], broadcast to it.

    Returns:
        A function of the same arguments: ``(value, Σ ∂f/∂field · direction)``.
    """

    def run(*args: Any) -> tuple[Any, Any]:
        given, owners = promoted(args, tuple(directions))
        tangents = [tree_map(_zero_tangent, x) for x in given]
        for i, (name, v) in zip(owners, directions.items(), strict=True):
            like = get(given[i], name)
            step = torch.as_tensor(v, dtype=like.dtype, device=like.device)
            tangents[i] = put(tangents[i], name, step.expand(like.shape).clone())
        leaves, structure = tree_flatten(tuple(given))
        moves, _ = tree_flatten(tuple(tangents))
        return _push(lambda *xs: f(*tree_unflatten(list(xs), structure)), leaves, moves)

    return run


def _zero_tangent(x: Any) -> Any:
    return torch.zeros_like(x) if _smooth(x) else x


def _smooth(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def _push(f: Callable[..., Any], leaves: Sequence[Any], moves: Sequence[Any]) -> Any:
    """Call jvp with a tangent for every floating leaf.

    An operand without one costs a dispatch through Python (about 100 µs an operation)
    and turns 0-d float32 tangents into float64.
    """
    smooth = [k for k, x in enumerate(leaves) if _smooth(x)]

    def partial(*xs: Tensor) -> Any:
        full = list(leaves)
        for k, x in zip(smooth, xs, strict=True):
            full[k] = x
        return f(*full)

    return torch.func.jvp(
        partial, tuple(leaves[k] for k in smooth), tuple(moves[k] for k in smooth)
    )


def _forward(
    f: Callable[..., Any], leaves: list[Any], where: list[int], chunk: int | None
) -> tuple[Any, list[Any]]:
    sizes = [leaves[k].numel() for k in where]
    eye = torch.eye(sum(sizes), dtype=leaves[where[0]].dtype, device=leaves[where[0]].device)

    def push(row: Tensor) -> Any:
        moves = [_zero_tangent(x) for x in leaves]
        for k, part in zip(where, row.split(sizes), strict=True):
            moves[k] = part.reshape(leaves[k].shape)
        return _push(f, leaves, moves)

    copies, columns = torch.func.vmap(push, out_dims=(0, -1), chunk_size=chunk)(eye)
    value = tree_map(lambda y: y[0], copies)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def part(start: int, size: int, shape: torch.Size) -> Any:
        def cut(c: Tensor) -> Tensor:
            return c.narrow(-1, start, size).reshape(*c.shape[:-1], *shape)

        return tree_map(cut, columns)

    shapes = [leaves[k].shape for k in where]
    return value, [part(*a) for a in zip(starts, sizes, shapes, strict=True)]


def _reverse(
    f: Callable[..., Any], leaves: list[Any], where: list[int], chunk: int | None
) -> tuple[Any, list[Any]]:
    def chosen(*xs: Tensor) -> Any:
        full = list(leaves)
        for k, x in zip(where, xs, strict=True):
            full[k] = x
        value = f(*full)
        return tree_map(_as_real, value), value

    real, pull, value = torch.func.vjp(chosen, *[leaves[k] for k in where], has_aux=True)
    outs, structure = tree_flatten(real)
    sizes = [y.numel() for y in outs]
    eye = torch.eye(sum(sizes), dtype=outs[0].dtype, device=outs[0].device)

    def rows(cotangent: Tensor) -> Any:
        parts = cotangent.split(sizes)
        return pull(
            tree_unflatten(
                [p.reshape(y.shape) for p, y in zip(parts, outs, strict=True)], structure
            )
        )

    stacked = torch.func.vmap(rows, chunk_size=chunk)(eye)
    values, _ = tree_flatten(value)

    def part(grads: Tensor) -> Any:
        pieces = zip(grads.split(sizes), outs, values, strict=True)
        made = [_as_complex(g.reshape(*y.shape, *g.shape[1:]), y.ndim, v) for g, y, v in pieces]
        return tree_unflatten(made, structure)

    return value, [part(g) for g in stacked]


def _as_real(y: Tensor) -> Tensor:
    return torch.view_as_real(y) if y.is_complex() else y


def _as_complex(g: Tensor, ndim: int, value: Tensor) -> Tensor:
    if not value.is_complex():
        return g
    pair = g.movedim(ndim - 1, -1).contiguous()
    return torch.view_as_complex(pair)
