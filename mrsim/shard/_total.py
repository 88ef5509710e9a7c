"""Costs summed over many items on many ranks, and their gradients."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import grad_and_value

from mrsim._batched import batched
from mrsim.shard._world import device, world
from mrsim.tree import smooth, tree_flatten, tree_leaves, tree_map, tree_unflatten


def value_and_grad(
    cost: Callable[..., Tensor], parts: int = 64, memory: int = 2**28
) -> Callable[..., tuple[Tensor, Any]]:
    """Make a function that sums a cost over a batch on all ranks, with its gradient.

    V = Σᵢ cost(itemᵢ, x, …) and ∂V/∂x. The batch is cut into parts that do not depend
    on the number of ranks; each rank does its share, and one all-reduce brings all
    parts to all ranks, which add them in one order: the numbers are the same, bit for
    bit, on any number of ranks.

    Args:
        cost: ``cost(item, x, *rest)``, a scalar; x a record (or tree) of floating
            tensors.
        parts: most parts that the batch is cut into; also the most ranks with work.
        memory: bytes that a part may allocate at once, as for `mrsim.batched`.

    Returns:
        A function ``(batch, x, *rest)`` → ``(V, gradient)``, on every rank; every leaf
        of batch has the item axis first, and gradient is a tree like x.

    Raises:
        RuntimeError: (when called) there are several ranks that cannot talk.

    >>> import torch
    >>> from mrsim import shard
    >>> square = lambda item, x: item * x**2
    >>> shard.value_and_grad(square)(torch.tensor([1.0, 2.0]), torch.tensor(3.0))
    (tensor(27.), tensor(18.))
    """

    def run(batch: Any, x: Any, *rest: Any) -> tuple[Tensor, Any]:
        here = world()
        if here.size > 1 and not here.joined:
            raise RuntimeError(
                f"shard: {here.size} ranks cannot sum without talking to each other;"
                f" call it inside `with shard.join():`, with MASTER_ADDR set"
            )
        leaves, structure = tree_flatten(x)
        sizes = [v.numel() for v in leaves]
        items = len(tree_leaves(batch)[0])
        count = min(parts, items)
        dims = (0, None, *(None for _ in rest))

        def part(x: Any, some: Any) -> Tensor:
            return batched(cost, dims, memory)(some, x, *rest).sum()

        table = leaves[0].new_zeros(count, 1 + sum(sizes))
        for k in range(here.rank, count, here.size):
            first, last = k * items // count, (k + 1) * items // count
            some = tree_map(lambda v, i=first, j=last: v[i:j], batch)
            slope, value = grad_and_value(part)(x, some)
            row = [value.reshape(1), *(g.reshape(-1) for g in tree_leaves(slope))]
            table[k] = torch.cat(row)
        if here.joined:
            shared = table.to(device())
            dist.all_reduce(shared)  # each row has one rank: sums with 0 are exact
            table = shared.to(table.device)
        value, *flat = table.sum(0).split([1, *sizes])
        pieces = zip(flat, leaves, strict=True)
        return value[0], tree_unflatten(
            [g.reshape(v.shape) for g, v in pieces], structure
        )

    return run


def total(
    cost: Callable[..., Tensor], batch: Any, parts: int = 64, memory: int = 2**28
) -> Callable[..., Tensor]:
    """Make an objective of a record: a cost summed over a batch on all ranks.

    It takes part in ``torch.func.grad`` and ``vmap``, and so in `mrsim.design`; all
    ranks must call it alike, as they do if all run the same minimisation. It has first
    derivatives only, and raises where others are asked for.

    Args:
        cost: as for `value_and_grad`.
        batch: the items.
        parts: as for `value_and_grad`.
        memory: as for `value_and_grad`.

    Returns:
        A function of x → V, a scalar.

    >>> import torch
    >>> from mrsim import shard
    >>> square = lambda item, x: item * x**2
    >>> f = shard.total(square, torch.tensor([1.0, 2.0]))
    >>> torch.func.grad(f)(torch.tensor(3.0))
    tensor(18.)
    """
    both = value_and_grad(cost, parts, memory)

    def objective(x: Any) -> Tensor:
        leaves, structure = tree_flatten(x)
        if not all(map(smooth, leaves)):
            raise TypeError("shard: every leaf of x must be a floating tensor")

        def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
            value, slope = both(batch, tree_unflatten(list(leaves), structure))
            return (value, *tree_leaves(slope))

        return _Total.apply(flat, *leaves)[0]

    return objective


class _Total(torch.autograd.Function):
    """The value; its gradient is computed with it and kept."""

    @staticmethod
    def forward(flat: Any, *leaves: Tensor) -> tuple[Tensor, ...]:
        return flat(*leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[1:], *output[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        saved = ctx.saved_tensors
        return None, *_Once.apply(cotangents[0], *saved)

    @staticmethod
    def vmap(info: Any, dims: Any, flat: Any, *leaves: Tensor) -> Any:
        def item(k: int) -> list[Tensor]:
            pairs = zip(leaves, dims[1:], strict=True)
            return [v if d is None else v.select(d, k) for v, d in pairs]

        rows = [_Total.apply(flat, *item(k)) for k in range(info.batch_size)]
        out = tuple(torch.stack(columns) for columns in zip(*rows, strict=True))
        return out, (0,) * len(out)


class _Once(torch.autograd.Function):
    """Cotangent times gradient, of which there is no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cotangent: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
        return tuple(cotangent * g for g in saved[len(saved) // 2 :])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            "shard.total has first derivatives only; sum the cost without it (vmap) to"
            " take others"
        )
