"""Derivatives by field name: `jac`, `value_and_jac`, `jvp`.

torch.func's jacfwd and jacrev refuse complex outputs, differentiate whole arguments and
have no chunks in forward mode. These do what a signal model needs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mrsim import _levels
from mrsim._check import check_floats
from mrsim.tree import (
    filled,
    get,
    is_record,
    names as field_names,
    only,
    promote,
    put,
    smooth,
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
    records = filter(is_record, args)
    have = [f"{type(x).__name__}({', '.join(field_names(x))})" for x in records]
    if not found:
        raise ValueError(
            f"no argument has a field {name!r}; the records given are"
            f" {' and '.join(have) or 'none: pass a record, or use torch.func'}"
        )
    raise ValueError(
        f"{name!r} is a field of {len(found)} arguments, {' and '.join(have)};"
        f" close over one of them: jac(lambda x: f(x, other), {name!r})"
    )


def promoted(args: Sequence[Any], wanted: Sequence[str]) -> tuple[list[Any], list[int]]:
    """Give the named fields a value in the arguments that own them.

    Returns:
        The arguments, and the position of the owner of each name.

    Raises:
        TypeError: a named field is no floating tensor.
    """
    out = list(args)
    owners = [locate(args, name) for name in wanted]
    for i, name in zip(owners, wanted, strict=True):
        out[i] = promote(out[i], name)
        check_floats(type(out[i]).__name__, **{name: get(out[i], name)})
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

    Raises:
        ValueError: the mode is unknown.

    >>> import mrsim, torch
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> t = torch.tensor([0.0, 0.1])
    >>> value, J = mrsim.value_and_jac(decay, "T2")(mrsim.Tissue(T1=1.0, T2=0.1), t)
    >>> value, J.T2
    (tensor([1.0000, 0.3679]), tensor([0.0000, 3.6788]))
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be 'forward' or 'reverse', got {mode!r}")

    def run(*args: Any) -> tuple[Any, Any]:
        chosen = tuple(dict.fromkeys(wanted or _present(args[0])))
        given, owners = promoted(args, chosen)
        flat, leaves, where = flattened(f, given, owners, chosen)
        pick = _forward if mode == "forward" else _reverse
        value, columns = pick(flat, leaves, where, chunk_size)
        parts: dict[int, dict[str, Any]] = {i: {} for i in sorted(owners)}
        for i, name, column in zip(owners, chosen, columns, strict=True):
            parts[i][name] = column
        made = tuple(only(given[i], p, p.__getitem__) for i, p in parts.items())
        return value, made[0] if len(made) == 1 else made

    return run


def flattened(
    f: Callable[..., Any], args: Sequence[Any], owners: Sequence[int], names: Any
) -> tuple[Callable[..., Any], list[Any], list[int]]:
    """Return ``f`` as a function of leaves, these, and where the named fields are."""
    leaves, structure = tree_flatten(tuple(args))
    places = tree_unflatten(list(range(len(leaves))), structure)
    where = [get(places[i], n) for i, n in zip(owners, names, strict=True)]
    return lambda *xs: f(*tree_unflatten(list(xs), structure)), leaves, where


def _present(x: Any) -> list[str]:
    if not is_record(x):
        raise ValueError(
            f"jac without names differentiates its first argument, which must be a"
            f" record, got {type(x).__name__}; use torch.func.jacfwd for bare tensors"
        )
    return [n for n in field_names(x) if get(x, n) is not None]


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

    >>> import mrsim, torch
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> tissue, t = mrsim.Tissue(T1=1.0, T2=0.1), torch.tensor([0.0, 0.1])
    >>> mrsim.jvp(decay, {"T2": 0.01})(tissue, t)
    (tensor([1.0000, 0.3679]), tensor([0.0000, 0.0368]))
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
    return torch.zeros_like(x) if smooth(x) else x


def _push(f: Callable[..., Any], leaves: Sequence[Any], moves: Sequence[Any]) -> Any:
    """Return a function's value, and its tangent along tangents of its leaves."""
    flat, primals, at, tree = _primals(f, leaves)
    values, pushed = _levels.jvp(flat, primals, [moves[k] for k in at])
    return tuple(
        tree_unflatten(list(x), tree[0]) for x in (values, map(_as, values, pushed))
    )


def _primals(
    f: Callable[..., Any], leaves: Sequence[Any]
) -> tuple[Callable[..., list[Tensor]], list[Tensor], list[int], list[Any]]:
    """Return ``f`` of floating leaves, these, where they are, and its output's tree.

    All of them get a tangent, zero or not: an operand without one costs a dispatch
    through Python (about 100 µs an operation) and turns 0-d float32 tangents into
    float64, as does a Python number. The tree is known once the function was called.
    """
    at = [k for k, x in enumerate(leaves) if smooth(x)]
    chosen, tree = filled(f, leaves, at), []

    def flat(*xs: Tensor) -> list[Tensor]:
        out, spec = tree_flatten(chosen(*xs))
        tree[:] = [spec]
        other = [type(y).__name__ for y in out if not isinstance(y, Tensor)]
        if other or not out:
            raise TypeError(
                f"jac: the function must return tensors, got"
                f" {other[0] if other else 'nothing'}; return what is"
                f" differentiated alone"
            )
        return out

    return flat, [_dense(leaves[k]) for k in at], at, tree


def _as(like: Tensor, x: Tensor) -> Tensor:
    return x if x.dtype == like.dtype else x.to(like.dtype)


def _dense(x: Tensor) -> Tensor:
    """Return a tensor without strides of 0, which jvp refuses."""
    return x if x.is_contiguous() else x.contiguous()


def forward_rows(
    f: Callable[..., Any], leaves: list[Any], where: list[int], chunk: int | None = None
) -> tuple[Any, Any]:
    """Return a function's value and its derivatives by each number of some leaves.

    Args:
        f: a function of the leaves.
        leaves: its arguments.
        where: positions of the leaves by which it is differentiated.
        chunk: how many tangents travel at once; all by default.

    Returns:
        The value, and the derivatives on a first axis.
    """
    sizes = [leaves[k].numel() for k in where]
    first = leaves[where[0]]
    eye = torch.eye(sum(sizes), dtype=first.dtype, device=first.device)
    flat, primals, at, tree = _primals(f, leaves)
    still = {k: torch.zeros_like(leaves[k]) for k in at if k not in where}

    def push(*parts: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        moves = still | dict(zip(where, parts, strict=True))
        values, pushed = _levels.jvp(flat, primals, [moves[k] for k in at])
        return values, list(map(_as, values, pushed))

    # jvp copies tangents that do not start where their memory does
    pairs = zip(where, eye.split(sizes, 1), strict=True)
    rows = [x.clone().reshape(len(eye), *leaves[k].shape) for k, x in pairs]
    made = _levels.vmap(push, rows, chunk)
    values, pushed = (tree_unflatten(list(y), tree[0]) for y in made)
    return values, pushed


def _forward(
    f: Callable[..., Any], leaves: list[Any], where: list[int], chunk: int | None
) -> tuple[Any, list[Any]]:
    value, columns = forward_rows(f, leaves, where, chunk)
    shapes = [leaves[k].shape for k in where]
    sizes = [shape.numel() for shape in shapes]

    def part(start: int, size: int, shape: torch.Size) -> Any:
        def cut(c: Tensor) -> Tensor:
            if not shape:
                return c.select(0, start)
            column = c.narrow(0, start, size).movedim(0, -1)
            return column.reshape((*c.shape[1:], *shape))

        return tree_map(cut, columns)

    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return value, [part(*a) for a in zip(starts, sizes, shapes, strict=True)]


def _reverse(
    f: Callable[..., Any], leaves: list[Any], where: list[int], chunk: int | None
) -> tuple[Any, list[Any]]:
    chosen = filled(f, leaves, where)

    def both(*xs: Tensor) -> tuple[Any, Any]:
        value = chosen(*xs)
        return tree_map(_as_real, value), value

    primals = [leaves[k] for k in where]
    real, pull, value = torch.func.vjp(both, *primals, has_aux=True)  # pyright: ignore[reportAssignmentType]
    outs, structure = tree_flatten(real)
    sizes = [y.numel() for y in outs]
    eye = torch.eye(sum(sizes), dtype=outs[0].dtype, device=outs[0].device)

    blocks = zip(eye.split(sizes, 1), outs, strict=True)
    rows = [b.contiguous().reshape((-1, *y.shape)) for b, y in blocks]
    stacked = torch.func.vmap(pull, chunk_size=chunk)(tree_unflatten(rows, structure))
    values, _ = tree_flatten(value)

    def part(grads: Tensor) -> Any:
        pieces = zip(grads.split(sizes), values, strict=True)
        return tree_unflatten([_as_output(g, y) for g, y in pieces], structure)

    return value, [part(g) for g in stacked]


def _as_real(y: Tensor) -> Tensor:
    return torch.view_as_real(y) if y.is_complex() else y


def _as_output(g: Tensor, value: Tensor) -> Tensor:
    """Shape the gradients of a value's real numbers to ``(*value, *field)``."""
    field = g.shape[1:]
    if not value.is_complex():
        return g.reshape((*value.shape, *field))
    pair = g.reshape((*value.shape, 2, *field)).movedim(value.ndim, -1)
    return torch.complex(*pair.unbind(-1))  # torch 2.6 views no pair of odd strides
