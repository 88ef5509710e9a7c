"""The laws that every public simulator keeps, as functions of a case (see `cases`)."""

import copy
import io
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optree
import torch
from cases import Case
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import mrsim
from mrsim.tree import (
    fields,
    get,
    names,
    promote,
    put,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

Args = tuple[Any, Any]
# what is slow and plain is for the night
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"

# ------------------------------------------------------------------------ helpers


def present(record: Any) -> list[str]:
    """Return the names of a record's leaves."""
    return [n for n in names(record) if get(record, n) is not None]


def stacked(record: Any, scales: Sequence[float] = (1.0, 1.04, 0.97)) -> Any:
    """Return a batch: the record with every leaf scaled by a little."""
    return tree_map(lambda x: torch.stack([x * s for s in scales]), record)


def item(batch: Any, i: int) -> Any:
    """Return one item of a batch."""
    return tree_map(lambda x: x[i], batch)


def as_real(y: Tensor) -> Tensor:
    """Return a signal's real numbers."""
    return torch.view_as_real(y) if y.is_complex() else y


def flat(case: Case, args: Args | None = None) -> tuple[Callable[..., Tensor], list]:
    """Return the simulator as a real function of its leaves, and the leaves."""
    leaves, structure = tree_flatten(args or case.args)
    return lambda *xs: as_real(case.f(*tree_unflatten(list(xs), structure))), leaves


def loss(case: Case, args: Args | None = None) -> tuple[Callable[..., Tensor], list]:
    """Return a scalar, nonlinear function of the leaves, and the leaves."""
    f, leaves = flat(case, args)

    def scalar(*xs: Tensor) -> Tensor:
        y = f(*xs).flatten()
        weights = torch.linspace(1.0, 2.0, y.numel(), dtype=y.dtype)
        return (weights * y).sum() + (weights.flip(0) * y * y).sum()

    return scalar, leaves


def every(leaves: Sequence[Any]) -> tuple[int, ...]:
    """Return all argument numbers."""
    return tuple(range(len(leaves)))


def blocks(matrix: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the blocks of a Hessian in a row."""
    return [block for row in matrix for block in row]


def close(made: Any, wanted: Any, tolerance: float, floor: float = 1e-12) -> None:
    """Compare trees of tensors, each relative to its largest entry."""
    for a, b in zip(tree_leaves(made), tree_leaves(wanted), strict=True):
        assert a.shape == b.shape
        assert a.isfinite().all()
        assert b.isfinite().all()
        if a.numel():
            error, size = float((a - b).abs().max()), float(b.abs().max())
            assert error <= tolerance * size + floor, (error, size)


def same(made: Any, wanted: Any) -> None:
    """Compare trees bit by bit."""
    for a, b in zip(tree_leaves(made), tree_leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


# --------------------------------------------------------------------------- laws


def one_is_its_slice(case: Case) -> None:
    """1: a single call equals its slice of every vmap."""
    f = case.f
    over_seq, over_tissue = vmap(f, in_dims=(None, 0)), vmap(f, in_dims=(0, None))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        tissue, seq = (mrsim.to(x, dtype) for x in case.args)
        many, seqs = stacked(tissue), stacked(seq)
        rows = [[f(item(many, i), item(seqs, j)) for j in range(3)] for i in range(3)]
        loop = torch.stack([torch.stack(row) for row in rows])
        diagonal = torch.stack([rows[i][i] for i in range(3)])
        close(over_tissue(many, seq), loop[:, 0], tolerance)
        close(over_seq(tissue, seqs), loop[0], tolerance)
        close(vmap(f)(many, seqs), diagonal, tolerance)
        close(
            vmap(f)(item(many, slice(1)), item(seqs, slice(1))), loop[0, :1], tolerance
        )
        close(vmap(over_seq, in_dims=(0, None))(many, seqs), loop, tolerance)
        turned = vmap(over_tissue, in_dims=(None, 0), out_dims=1)(many, seqs)
        close(turned, loop, tolerance)


def one_leaf_can_be_mapped(case: Case) -> None:
    """1: any single field can be the only one that is mapped, along any axis."""
    for owner, name in _fields(case):
        x = get(case.args[owner], name)
        batch = torch.stack([x, 1.05 * x], -1)

        def at(value: Tensor, owner: int = owner, name: str = name) -> Tensor:
            return case.f(*_put(case.args, owner, name, value))

        made = vmap(at, in_dims=-1)(batch)
        close(made, torch.stack([at(v) for v in batch.unbind(-1)]), 1e-12)


def forward_is_reverse_is_differences(case: Case) -> None:
    """2: forward mode, reverse mode and central differences agree for every field."""
    wanted = [name for _, name in _fields(case)]
    forward = mrsim.jac(case.f, *wanted)(*case.args)
    close(forward, mrsim.jac(case.f, *wanted, mode="reverse")(*case.args), 1e-11)
    for owner, name in _fields(case):
        x = get(case.args[owner], name)
        columns = [_difference(case, owner, name, k) for k in range(x.numel())]
        made = get(forward[owner], name)
        made = made.reshape(*made.shape[: made.ndim - x.ndim], -1)
        close(made, torch.stack(columns, -1), 1e-6)


def _fields(case: Case) -> Iterator[tuple[int, str]]:
    for owner, record in enumerate(case.args):
        for name in present(record):
            yield owner, name


def _put(args: Args, owner: int, name: str, value: Tensor) -> Args:
    tissue, seq = args
    if owner:
        return tissue, put(seq, name, value)
    return put(tissue, name, value), seq


def _difference(case: Case, owner: int, name: str, k: int) -> Tensor:
    x = get(case.args[owner], name)
    size = abs(float(x.flatten()[k]))
    step = 1e-3 * (size if 1e-9 < size < 1e-4 else max(size, 0.05))
    way = torch.eye(x.numel(), dtype=x.dtype)[k].reshape(x.shape) * step

    def moved(times: float) -> Tensor:
        return case.f(*_put(case.args, owner, name, x + times * way))

    near, far = moved(1) - moved(-1), moved(2) - moved(-2)
    return (8 * near - far) / (12 * step)


def mapped_jacobians_are_loops(case: Case) -> None:
    """3: vmap of forward Jacobians equals a loop of reverse Jacobians."""
    wanted = [name for _, name in _fields(case)]
    batch = tuple(map(stacked, case.args))
    items = [tuple(item(x, i) for x in batch) for i in range(3)]
    forward = vmap(mrsim.jac(case.f, *wanted))(*batch)
    reverse = [mrsim.jac(case.f, *wanted, mode="reverse")(*args) for args in items]
    close(forward, tree_map(lambda *x: torch.stack(x), *reverse), 1e-11)
    f, leaves = flat(case, batch)
    many = every(leaves)
    loop = [jacrev(f, many)(*flat(case, args)[1]) for args in items]
    wanted_bare = tree_map(lambda *x: torch.stack(x), *loop)
    close(vmap(jacfwd(f, many))(*leaves), wanted_bare, 1e-11)
    close(vmap(jacrev(f, many))(*leaves), wanted_bare, 1e-11)
    outside = jacfwd(lambda x: vmap(f)(x, *leaves[1:]))(leaves[0])
    close(torch.stack([outside[i, ..., i] for i in range(3)]), wanted_bare[0], 1e-11)


def mapped_once_jacobians_are_loops(case: Case) -> None:
    """3: the same with the sequence shared by all voxels, and with a voxel by all."""
    wanted = [name for _, name in _fields(case)]
    made = mrsim.jac(case.f, *wanted)
    back = mrsim.jac(case.f, *wanted, mode="reverse")
    tissue, seq = case.args
    many, seqs = stacked(tissue), stacked(seq)
    for f in (made, back):
        loop = [back(item(many, i), seq) for i in range(3)]
        close(
            vmap(f, in_dims=(0, None))(many, seq),
            tree_map(lambda *x: torch.stack(x), *loop),
            1e-11,
        )
        loop = [back(tissue, item(seqs, i)) for i in range(3)]
        close(
            vmap(f, in_dims=(None, 0))(tissue, seqs),
            tree_map(lambda *x: torch.stack(x), *loop),
            1e-11,
        )


def single_precision_stays(case: Case) -> None:
    """4: float32 gives float32 or complex64, in derivatives too, and agrees to 1e-3."""
    wanted = [name for _, name in _fields(case)]
    small = tuple(mrsim.to(x, torch.float32) for x in case.args)
    exact, exact_jac = mrsim.value_and_jac(case.f, *wanted)(*case.args)
    for mode in ("forward", "reverse"):
        value, jacobian = mrsim.value_and_jac(case.f, *wanted, mode=mode)(*small)
        for y, wanted_y in ((value, exact), (jacobian, exact_jac)):
            for a, b in zip(tree_leaves(y), tree_leaves(wanted_y), strict=True):
                assert a.dtype == (torch.complex64 if b.is_complex() else torch.float32)
                close(a.to(b.dtype), b, 1e-3, floor=1e-6)


def hessians_are_right(case: Case) -> None:
    """5: Hessians by every composition agree with each other and with differences."""
    f, leaves = loss(case)
    many = every(leaves)
    wanted = blocks(jacrev(jacrev(f, many), many)(*leaves))
    close(blocks(hessian(f, many)(*leaves)), wanted, 1e-9)
    close(blocks(jacrev(jacfwd(f, many), many)(*leaves)), wanted, 1e-9)
    close(blocks(jacfwd(jacfwd(f, many), many)(*leaves)), wanted, 1e-9)
    ways = [torch.full_like(x, 0.1) * x for x in leaves]
    ahead, behind = (
        grad(f, many)(*(x + s * w for x, w in zip(leaves, ways, strict=True)))
        for s in (1e-4, -1e-4)
    )
    rows = jvp(lambda *xs: grad(f, many)(*xs), tuple(leaves), tuple(ways))[1]
    close([(a - b) / 2e-4 for a, b in zip(ahead, behind, strict=True)], rows, 1e-5)


def mapped_hessians_are_loops(case: Case) -> None:
    """5: vmap of Hessians equals a loop, mapped over everything or over the voxel."""
    tissue, seq = case.args
    for shared in (False, True):
        batch = (
            stacked(tissue, (1.0, 1.04)),
            seq if shared else stacked(seq, (1.0, 1.04)),
        )
        leaves, _ = tree_flatten(batch)
        inner = len(tree_leaves(tissue))
        dims = tuple(None if shared and k >= inner else 0 for k in every(leaves))
        f, _ = loss(case)
        wanted = [
            hessian(f, every(leaves))(
                *(x if d is None else x[i] for x, d in zip(leaves, dims, strict=True))
            )
            for i in range(2)
        ]
        made = vmap(hessian(f, every(leaves)), in_dims=dims)(*leaves)
        close(made, tree_map(lambda *x: torch.stack(x), *wanted), 1e-9)


def third_derivatives_are_right(case: Case) -> None:
    """5: third derivatives along a generic direction, by every composition."""
    f, leaves = loss(case)

    def line(t: Tensor) -> Tensor:
        return f(*(x * (1 + t * 0.1 * (k % 3 + 1)) for k, x in enumerate(leaves)))

    zero = torch.zeros((), dtype=leaves[0].dtype)
    exact = grad(grad(grad(line)))(zero)
    close(jacrev(jacfwd(jacrev(line)))(zero), exact, 1e-8)
    close(vmap(jacfwd(hessian(line)))(zero[None]), exact[None], 1e-8)
    step = 1e-3
    steps = step * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=zero.dtype)
    weights = torch.tensor([1.0, -8.0, 8.0, -1.0], dtype=zero.dtype) / (12 * step)
    close(weights @ vmap(grad(grad(line)))(steps), exact, 1e-5)


def pure(case: Case) -> None:
    """6: inputs stay, two calls are equal bit by bit, and nothing random happens."""
    before = copy.deepcopy(case.args)
    versions = [x._version for x in tree_leaves(case.args)]
    first = case.f(*case.args)
    mrsim.jac(case.f, mode="reverse")(*case.args)
    same(case.f(*case.args), first)
    same(case.args, before)
    assert versions == [x._version for x in tree_leaves(case.args)]
    vmap(case.f, randomness="error")(*map(stacked, case.args))
    assert not first.requires_grad


def absent_is_neutral(case: Case) -> None:
    """7: a field that is None equals the same field at its neutral value."""
    for owner, record in enumerate(case.args):
        for f in fields(record):
            if "neutral" not in f.metadata:
                continue
            without = put(record, f.name, None)
            if f.name == "efficiency" and "TI" in names(record) and record.TI is None:
                continue
            given = promote(without, f.name)
            assert get(given, f.name) is not None
            one, other = (
                (x, case.args[1]) if owner == 0 else (case.args[0], x)
                for x in (without, given)
            )
            if not all(_accepted(case, f.name, args) for args in (one, other)):
                continue
            close(case.f(*one), case.f(*other), 1e-12)
            made = mrsim.jac(case.f, *present(one[0])[:2])
            close(made(*one), made(*other), 1e-11)


def _accepted(case: Case, name: str, args: Args) -> bool:
    """Tell whether a simulator knows some physics; else it must say so."""
    refusal = ""
    try:
        case.f(*args)
    except ValueError as e:
        refusal = str(e)
    known = name not in {"D", "v", "T2p", "moment", "offset"}
    assert not refusal or not known
    assert name in refusal or not refusal
    return not refusal


def trees_come_back(case: Case) -> None:
    """8: records survive both registries, copies, pickle and torch.load."""
    wanted = case.f(*case.args)
    for kind in (tree_flatten, optree.tree_flatten):
        leaves, structure = kind(case.args)
        back = tree_unflatten if kind is tree_flatten else _optree_unflatten
        same(case.f(*back(leaves, structure)), wanted)
    same(case.f(*copy.deepcopy(case.args)), wanted)
    same(case.f(*pickle.loads(pickle.dumps(case.args))), wanted)
    file = io.BytesIO()
    torch.save(case.args, file)
    file.seek(0)
    same(case.f(*torch.load(file, weights_only=True)), wanted)


def _optree_unflatten(leaves: list[Any], structure: Any) -> Any:
    return optree.tree_unflatten(structure, leaves)


def pieces_are_the_whole(case: Case) -> None:
    """9: a batch in chunks equals the batch at once."""
    scales = torch.linspace(0.95, 1.05, 9).tolist()
    many = stacked(case.args[0], scales)
    whole = vmap(case.f, in_dims=(0, None))(many, case.args[1])
    made = mrsim.batched(case.f, in_dims=(0, None), memory=1)(many, case.args[1])
    close(made, whole, 1e-12)
    chunked = vmap(case.f, in_dims=(0, None), chunk_size=4)(many, case.args[1])
    close(chunked, whole, 1e-12)


def acquisitions_have_gradients(case: Case) -> None:
    """10: gradients are finite everywhere and not zero in a generic case."""
    f, _ = loss(case)
    tissue, seq = case.args
    count = len(tree_leaves(tissue))

    def of_seq(q: Any) -> Tensor:
        return f(*tree_leaves(tissue), *tree_leaves(q))

    slope = grad(of_seq)(seq)
    assert len(tree_leaves(slope)) == len(tree_leaves(case.args)) - count
    for name in present(seq):
        g = get(slope, name)
        assert g.isfinite().all(), name
        assert (g != 0).any() or name in case.silent, name


def meta_in_meta_out(case: Case) -> None:
    """11: the output is on the input's device, also where there is no data."""
    wanted = case.f(*case.args)
    args = tuple(mrsim.to(x, device="meta") for x in case.args)
    y = case.f(*args)
    assert y.is_meta
    assert (y.shape, y.dtype) == (wanted.shape, wanted.dtype)
    batch = tuple(map(stacked, args))
    assert vmap(case.f)(*batch).shape == (3, *wanted.shape)
    assert all(x.is_meta for x in tree_leaves(mrsim.jac(case.f)(*args)))


def voxels_are_strangers(case: Case) -> None:
    """13: one NaN voxel changes no neighbour, in value or in derivatives."""
    tissue, seq = case.args
    many = stacked(tissue)
    for name in present(tissue):
        x = get(many, name)
        hole = torch.tensor([False, True, False])
        bad = put(many, name, torch.where(_wide(hole, x), torch.nan, x))
        for f in (case.f, mrsim.jac(case.f), mrsim.jac(case.f, mode="reverse")):
            mapped = vmap(f, in_dims=(0, None))
            for a, b in zip(
                tree_leaves(mapped(bad, seq)),
                tree_leaves(mapped(many, seq)),
                strict=True,
            ):
                assert torch.equal(a[~hole], b[~hole])
                assert not a[1].isfinite().all() or torch.equal(a[1], b[1])
    of_loss = vmap(grad(lambda t: as_real(case.f(t, seq)).square().sum()))
    name = present(tissue)[:2][-1]
    x = get(many, name)
    bad = put(many, name, torch.where(_wide(hole, x), torch.nan, x))
    for a, b in zip(tree_leaves(of_loss(bad)), tree_leaves(of_loss(many)), strict=True):
        assert torch.equal(a[~hole], b[~hole])


def _wide(hole: Tensor, x: Tensor) -> Tensor:
    return hole.reshape(-1, *(1,) * (x.ndim - 1))


def autograd_works_too(case: Case) -> None:
    """.backward() and double backward equal torch.func."""
    f, leaves = loss(case)
    many = every(leaves)
    wanted = grad(f, many)(*leaves)
    xs = [x.clone().requires_grad_() for x in leaves]
    f(*xs).backward()
    close([x.grad for x in xs], wanted, 1e-11)
    slopes = torch.autograd.grad(f(*xs), xs, create_graph=True)
    sum(s.square().sum() for s in slopes).backward()
    twice = grad(lambda *ys: sum(s.square().sum() for s in grad(f, many)(*ys)), many)
    close([x.grad - w for x, w in zip(xs, wanted, strict=True)], twice(*leaves), 1e-9)
    batch, structure = tree_flatten(tuple(map(stacked, case.args)))
    held = [x.clone().requires_grad_() for x in batch]
    as_real(vmap(case.f)(*tree_unflatten(held, structure))).square().sum().backward()
    over = grad(
        lambda *ys: (
            as_real(vmap(case.f)(*tree_unflatten(list(ys), structure))).square().sum()
        ),
        many,
    )
    close([x.grad for x in held], over(*batch), 1e-11)


def gradients_commute_with_maps(case: Case) -> None:
    """The gradient of a sum over a map equals the map of the gradients."""
    f, _ = loss(case)
    batch, _ = tree_flatten(tuple(map(stacked, case.args)))
    many = every(batch)
    total = grad(lambda *xs: vmap(f)(*xs).sum(), many)(*batch)
    close(total, vmap(grad(f, many))(*batch), 1e-11)
    one, shared = batch[:1], [x[0] for x in batch[1:]]
    dims = (0,) + (None,) * len(shared)
    total = grad(lambda *xs: vmap(f, in_dims=dims)(*xs).sum(), many)(*one, *shared)
    each = vmap(grad(f, many), in_dims=dims)(*one, *shared)
    summed = [each[0], *(x.sum(0) for x in each[1:])]
    close(list(total), summed, 1e-11)


def modules_can_hold_the_leaves(case: Case) -> None:
    """A module's parameters are leaves like any other (torch.func.functional_call)."""
    f, leaves = loss(case)
    module = torch.nn.Module()
    for k, x in enumerate(leaves):
        module.register_parameter(f"p{k}", torch.nn.Parameter(x.clone()))
    module.forward = lambda: f(*module.parameters())

    def called(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, values, ())

    values = {n: p.detach() for n, p in module.named_parameters()}
    wanted = grad(f, every(leaves))(*leaves)
    close(list(grad(called)(values).values()), list(wanted), 1e-11)
    many = {n: torch.stack([v, 1.01 * v]) for n, v in values.items()}
    close(
        vmap(called)(many),
        torch.stack([f(*(v[i] for v in many.values())) for i in range(2)]),
        1e-11,
    )


def default_precision_does_not_matter(case: Case) -> None:
    """Constants follow the inputs, not torch's default dtype."""
    wanted = mrsim.value_and_jac(case.f)(*case.args)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        made = mrsim.value_and_jac(case.f)(*case.args)
    finally:
        torch.set_default_dtype(before)
    same(made, wanted)


LAWS = [
    one_is_its_slice,
    one_leaf_can_be_mapped,
    forward_is_reverse_is_differences,
    mapped_jacobians_are_loops,
    mapped_once_jacobians_are_loops,
    single_precision_stays,
    hessians_are_right,
    mapped_hessians_are_loops,
    third_derivatives_are_right,
    pure,
    absent_is_neutral,
    trees_come_back,
    pieces_are_the_whole,
    acquisitions_have_gradients,
    meta_in_meta_out,
    voxels_are_strangers,
    autograd_works_too,
    gradients_commute_with_maps,
    modules_can_hold_the_leaves,
    default_precision_does_not_matter,
]
