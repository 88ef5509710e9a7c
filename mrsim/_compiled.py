"""Functions traced once for each kind of arguments and replayed as bare operations.

A torch.func transform spends most of a small computation's time on itself: wrapping
tensors, choosing rules, keeping a tape. `compiled` records what reaches the device and
plays that back.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mrsim._check import concrete, transforming, warn
from mrsim._recorder import Recorder
from mrsim.tree import tree_flatten, tree_unflatten

_MOST = 64  # traces of one function that are kept


def compiled(f: Callable[..., Any], *, inductor: bool = False) -> Callable[..., Any]:
    """Make a function that runs as a recorded graph, traced at its first call.

    For loops that call the same shapes thousands of times: compile the outermost, the
    transformed function, as in ``compiled(grad(cost))`` or ``compiled(vmap(step))``.
    A trace serves all tensors of its shapes, dtypes and devices; other ones, another
    tree structure or other static arguments (numbers, strings, functions) make a new
    one, and the 64 latest are kept. Under a transform, or where autograd follows an
    argument, ``f`` itself runs.

    Args:
        f: a pure function of pytrees, whose course depends on shapes and on static
            arguments, not on values of tensors; all tensors are arguments.
        inductor: also compile the graph to machine code (needs a C++ compiler, or
            Triton on a GPU): seconds to minutes for each trace, the longer the graph.

    Returns:
        A function of the same positional arguments.

    Raises:
        ValueError: (when called) ``f`` uses a tensor that is no argument, whose value
            the graph would keep for ever, or its course depends on tensors' values.
        TypeError: (when called) an argument is neither a tensor nor hashable.

    >>> import torch
    >>> from mrsim import compiled
    >>> slope = compiled(torch.func.grad(lambda x, power: x**power))
    >>> slope(torch.tensor(2.0), 3), slope(torch.tensor(3.0), 3)
    (tensor(12.), tensor(27.))
    """
    graphs: dict[Any, _Graph] = {}

    @functools.wraps(f)
    def run(*args: Any) -> Any:
        leaves, structure = tree_flatten(args)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if _followed(tensors):
            return f(*args)
        tensors = [_plain(x) for x in tensors]
        key = structure, torch.get_default_dtype(), *map(_kind, leaves)
        try:
            graph = graphs.get(key)
        except TypeError as e:
            raise TypeError(_unhashable(leaves)) from e
        if graph is None:
            graph = _traced(f, leaves, structure, tensors, inductor)
            _keep(graphs, key, graph)
        return graph.rebuild(graph.play(*tensors))

    return run


class _Graph(NamedTuple):
    """A recorded function of tensors, and the tree that its results make."""

    play: Callable[..., Sequence[Tensor]]
    rebuild: Callable[[Sequence[Tensor]], Any]


def _followed(tensors: Sequence[Tensor]) -> bool:
    """Tell whether someone watches the operations on these tensors."""
    if transforming() or forward_ad._current_level >= 0:
        return True
    if not all(map(concrete, tensors)):
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _plain(x: Tensor) -> Tensor:
    """Return the tensor with the one layout in memory that traces are made for."""
    x = x.detach().resolve_conj().resolve_neg()
    if x.is_contiguous() and not x.storage_offset():
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _kind(x: Any) -> Any:
    """Describe a leaf: 1, 1.0 and True are different, and equal as keys."""
    return (x.shape, x.dtype, x.device) if isinstance(x, Tensor) else (type(x), x)


def _unhashable(leaves: Sequence[Any]) -> str:
    kinds = {type(x).__name__ for x in leaves if type(x).__hash__ is None}
    return (
        f"compiled: arguments are tensors or hashable, got {', '.join(sorted(kinds))};"
        f" convert arrays with torch.as_tensor"
    )


def _keep(graphs: dict[Any, _Graph], key: Any, graph: _Graph) -> None:
    graphs[key] = graph
    if len(graphs) > _MOST:
        graphs.pop(next(iter(graphs)))
        warn(
            f"compiled: more than {_MOST} traces of one function; pass numbers that"
            f" change as tensors, and bring batches to one size"
        )


def _traced(
    f: Callable[..., Any],
    leaves: Sequence[Any],
    structure: Any,
    tensors: Sequence[Tensor],
    inductor: bool,
) -> _Graph:
    recorder = Recorder(f)
    given = iter([recorder.argument(k, x) for k, x in enumerate(tensors)])
    all_leaves = [next(given) if isinstance(x, Tensor) else x for x in leaves]
    with recorder.recording():
        out, spec = tree_flatten(f(*tree_unflatten(all_leaves, structure)))
    at = [k for k, x in enumerate(out) if isinstance(x, Tensor)]
    rest = [None if isinstance(x, Tensor) else x for x in out]
    module = recorder.finish([out[k] for k in at])

    def rebuild(results: Sequence[Tensor]) -> Any:
        made = list(rest)
        for k, x in zip(at, results, strict=True):
            made[k] = x
        return tree_unflatten(made, spec)

    play = module.forward
    if inductor:
        whole = not recorder.opaque_calls
        play = torch.compile(module, dynamic=False, fullgraph=whole)
    return _Graph(play, rebuild)
