"""A recorder of the operations that reach the device, below all transforms.

make_fx does the same 20 times slower, keeps values of tensors from outside in silence,
and on fake tensors fails in forward mode wherever a constant takes part.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
)

from mrsim._check import traced
from mrsim._remat import closed_over
from mrsim.tree import tree_leaves, tree_map

_OPS = torch.ops.aten
_SAME = {_OPS.detach.default, _OPS.alias.default}
_SHAPES = {  # of whose inputs only the shapes matter
    *(_OPS.zeros_like.default, _OPS.ones_like.default, _OPS.full_like.default),
    *(_OPS.new_zeros.default, _OPS.new_ones.default, _OPS.new_full.default),
}
_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_EXITS = {Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__}


def opaque(f: Callable[..., Any], static: Any, *tensors: Tensor) -> Any:
    """Call ``f(static, *tensors)`` so that a recorder sees one operation.

    Args:
        f: a pure function that reads memory by itself; a tensor, or a tuple, out.
        static: what it depends on besides tensors.
        *tensors: its inputs, which no transform follows.

    Returns:
        What ``f`` returns.
    """
    if torch._C._len_torch_dispatch_stack():
        mode = _get_current_dispatch_mode()
        if isinstance(mode, Recorder) and not mode.paused:
            return mode.call(f, static, tensors)
    return f(static, *tensors)


class Recorder(TorchDispatchMode):
    """Writes down in an fx graph what one call of a function does."""

    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        self.f = f
        self.graph = torch.fx.Graph()
        self.held = torch.nn.Module()
        self.varying: set[int] = set()  # storages that depend on arguments or chance
        self.written: set[int] = set()  # storages that some operation writes into
        self.constants: dict[torch.fx.Node, Tensor] = {}
        self.paused = False
        self.opaque_calls = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        with self, _Exits(self):
            yield

    def argument(self, k: int, x: Tensor) -> Tensor:
        x = x.detach()
        self._mark(x, self.graph.placeholder(f"argument_{k}"), varies=True)
        return x

    def finish(self, out: Sequence[Tensor]) -> torch.fx.GraphModule:
        result = self.graph.output(tuple(self._node(x) for x in out))
        self._fold(result)
        self.graph.eliminate_dead_code()
        return torch.fx.GraphModule(self.held, self.graph)

    def _fold(self, result: torch.fx.Node) -> None:
        """Hold what is the same in every call; what goes out is a copy of it."""
        for node, x in self.constants.items():
            if not node.users or _storage(x) in self.written:
                continue
            with self.graph.inserting_before(node):
                held = self._held(x)
                if result in node.users:
                    fresh = self.graph.call_function(_OPS.clone.default, (held,))
                    result.replace_input_with(node, fresh)
            node.replace_all_uses_with(held)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = args, kwargs or {}
        if self.paused:
            return func(*args, **given[1])
        if func is _OPS.lift_fresh.default:  # of torch.tensor and torch.from_numpy
            return self._literal(args[0])
        if func is _OPS._efficientzerotensor.default:
            func = _OPS.zeros.default  # whose products are fast
        nodes = tree_map(self._stand_in, given)
        sources = {_storage(x) for x in tree_leaves(given) if isinstance(x, Tensor)}
        varies = bool(sources & self.varying) and func not in _SHAPES
        if varies:
            _refuse_values(func, args)
        varies = varies or torch.Tag.nondeterministic_seeded in func.tags
        out = func(*args, **given[1])
        self._forget(out, sources)
        if func in _SAME:
            self._mark(out, self._node(args[0]), varies=varies)
            return out
        if func._schema.is_mutable:
            self.written |= {_storage(x) for x in _written(func, args)}
            self.varying |= sources if varies else set()
        if any(isinstance(x, Tensor) for x in tree_leaves(out)):
            node = self.graph.call_function(func, *nodes)
            self._mark_all(out, node, varies=varies)
        return out

    def call(
        self, f: Callable[..., Any], static: Any, tensors: Sequence[Tensor]
    ) -> Any:
        nodes = [self._node(x) for x in tensors]
        self.paused = True
        try:
            out = f(static, *tensors)
        finally:
            self.paused = False
        self.opaque_calls += 1
        node = self.graph.call_function(f, (self._held(static), *nodes))
        self._mark_all(out, node, varies=True)
        return out

    def _forget(self, out: Any, sources: set[int]) -> None:
        """Forget the storages that lay where new ones do."""
        found = {_storage(x) for x in tree_leaves(out) if isinstance(x, Tensor)}
        self.varying -= found - sources
        self.written -= found - sources

    def varies(self, x: Tensor) -> bool:
        return not (self.paused or traced(x)) and _storage(x) in self.varying

    def _mark(self, x: Tensor, node: torch.fx.Node, *, varies: bool) -> None:
        x._mrsim_node = node  # pyright: ignore[reportAttributeAccessIssue]
        if varies:
            self.varying.add(_storage(x))
        else:
            self.constants.setdefault(node, x)

    def _mark_all(self, out: Any, node: torch.fx.Node, *, varies: bool) -> None:
        if isinstance(out, Tensor):
            return self._mark(out, node, varies=varies)
        for k, x in enumerate(out):
            if isinstance(x, Tensor):
                part = self.graph.call_function(operator.getitem, (node, k))
                self._mark(x, part, varies=varies)
        return None

    def _node(self, x: Tensor) -> torch.fx.Node:
        node = getattr(x, "_mrsim_node", None)
        if node is None or node.graph is not self.graph:
            names = [name for name, held in closed_over(self.f) if held is x]
            what = f"{names[0]!r}, a" if names else "a"
            raise ValueError(
                f"compiled: the function uses {what} tensor of shape {tuple(x.shape)}"
                f" that is no argument; the graph would keep its value for ever, so"
                f" make it an argument"
            )
        return node

    def _literal(self, x: Tensor) -> Tensor:
        made = x.clone()
        self._forget(made, set())
        constant = self.graph.call_function(_OPS.clone.default, (self._held(x),))
        self._mark(made, constant, varies=False)
        return made

    def _held(self, x: Any) -> torch.fx.Node:
        name = f"held_{len(vars(self.held))}"
        object.__setattr__(self.held, name, x)
        return self.graph.get_attr(name)

    def _stand_in(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self._node(x)
        return self._held(x) if isinstance(x, torch.Generator) else x


class _Exits(TorchFunctionMode):
    """Refuses what reads a tensor's memory where no recorder can see it."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _EXITS and self.recorder.varies(args[0]):
            raise ValueError(
                f"compiled: the function hands memory to code outside torch"
                f" (Tensor.{func.__name__}), which no graph can repeat; compile the"
                f" parts before and after it"
            )
        return func(*args, **(kwargs or {}))


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _written(func: Any, args: tuple[Any, ...]) -> Iterator[Tensor]:
    """Yield what an operation writes into."""
    for given, x in zip(func._schema.arguments, args, strict=False):
        if given.alias_info is not None and given.alias_info.is_write:
            yield from (y for y in tree_leaves(x) if isinstance(y, Tensor))


def _refuse_values(func: Any, args: tuple[Any, ...]) -> None:
    """Refuse operations whose result's shape, or whose number, no graph can hold."""
    values = _VALUES & set(func.tags)
    if func is _OPS.index.Tensor:
        values = {x for x in args[1] if x is not None and x.dtype == torch.bool}
    if values:
        raise ValueError(
            f"compiled: the course of the function depends on values of tensors"
            f" ({func}), which one graph cannot follow; compile the part whose course"
            f" is fixed, such as the step of a loop"
        )
