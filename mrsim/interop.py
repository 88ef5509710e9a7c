"""Records to numpy and xarray and back.

The way in needs no function: a record's constructor takes numbers, lists, numpy arrays
and whatever has ``__array__`` (JAX, xarray, pandas); `torch.from_dlpack` shares memory
where that matters. Signals go out by ``numpy.asarray`` or ``jax.numpy.from_dlpack``.
"""

import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from mrsim._check import require
from mrsim._show import Meaning, meanings
from mrsim.tree import fields, get, is_record, names

R = TypeVar("R")


def to_numpy(record: Any) -> dict[str, Any]:
    """Return the present fields of a record as numpy arrays, by dotted names.

    ``numpy.savez(file, **to_numpy(tissue))`` stores them. Structure (`static` fields)
    is not among them.

    Args:
        record: any record.

    Returns:
        Name → array, a copy, of the field's dtype.

    Raises:
        TypeError: it is no record.

    >>> from mrsim import Exchange, Tissue, interop
    >>> pools = Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0)
    >>> list(interop.to_numpy(Tissue(T1=1.0, T2=0.1, exchange=pools)))
    ['T1', 'T2', 'exchange.T1', 'exchange.T2', 'exchange.f', 'exchange.k']
    """
    _check_record("interop.to_numpy", record)
    return {
        name: value.detach().cpu().resolve_conj().resolve_neg().numpy().copy()
        for name in names(record)
        if isinstance(value := get(record, name), Tensor)
    }


def from_numpy(kind: type[R], arrays: Mapping[str, Any], **structure: Any) -> R:
    """Make a record of arrays under dotted names: the way back from `to_numpy`.

    Args:
        kind: the record's class.
        arrays: name → array or number, such as `to_numpy` or ``numpy.load`` return.
        **structure: further fields, such as static ones and records.

    Returns:
        The record.

    Raises:
        TypeError: a name is no field, or one is missing.

    >>> import numpy
    >>> from mrsim import Tissue, interop
    >>> x = interop.from_numpy(Tissue, {"T1": numpy.ones(3), "T2": numpy.full(3, 0.1)})
    >>> x.T2.dtype, x.T2.shape
    (torch.float64, torch.Size([3]))
    """
    given = dict(structure)
    inside: dict[str, dict[str, Any]] = {}
    for name, value in arrays.items():
        head, _, rest = name.partition(".")
        if rest:
            inside.setdefault(head, {})[rest] = value
        else:
            given[name] = value
    known = [f.name for f in fields(kind)]
    for name in (*given, *inside):
        if name not in known:
            raise TypeError(
                f"interop.from_numpy: {kind.__name__} has no field {name}; it has"
                f" {', '.join(known)}"
            )
    for head, part in inside.items():
        given[head] = from_numpy(_kind_of(kind, head), part)
    return kind(**given)


def to_xarray(record: Any, dims: Sequence[str] = ()) -> Any:
    """Return a record as a Dataset, with axes and units from its fields' comments.

    Args:
        record: any record; every leaf that has more axes than a single voxel's has
            those of `dims` first.
        dims: names of the batch axes.

    Returns:
        The `xarray.Dataset`: a variable for each present field, dotted names, attribute
        ``units``; its attribute ``record`` is the class's name.

    Raises:
        ImportError: xarray is not installed (extra ``xarray``).
        TypeError: it is no record.
        ValueError: a field has fewer or more axes than its comment and `dims` name.

    >>> from mrsim import Tissue, grid, interop
    >>> atoms = grid(Tissue(T1=1.0, T2=0.1), T1=[0.5, 1.0], T2=[0.05, 0.1])
    >>> made = interop.to_xarray(atoms, dims=["atom"])  # doctest: +SKIP
    >>> made.T1.dims, made.T1.attrs["units"]  # doctest: +SKIP
    (('atom',), 's')
    """
    xarray = require("xarray", "xarray")
    variables = {}
    for name, array in to_numpy(record).items():
        owner, _, last = name.rpartition(".")
        holder = get(record, owner) if owner else record
        meaning = meanings(type(holder)).get(last, Meaning())
        axes = _named(name, array.ndim, meaning.axes, tuple(dims))
        attributes = {} if meaning.unit is None else {"units": meaning.unit}
        variables[name] = (axes, array, attributes)
    return xarray.Dataset(variables, attrs={"record": type(record).__name__})


def from_xarray(kind: type[R], dataset: Any, **structure: Any) -> R:
    """Make a record of a Dataset's variables: the way back from `to_xarray`.

    Args:
        kind: the record's class.
        dataset: with variables under dotted names, in mrsim's units.
        **structure: further fields, such as static ones.

    Returns:
        The record.

    Raises:
        TypeError: a variable is no field, or one is missing.
        ValueError: a variable says that it has another unit than the field.

    >>> from mrsim import Tissue, grid, interop
    >>> atoms = grid(Tissue(T1=1.0, T2=0.1), T2=[0.05, 0.1])
    >>> interop.from_xarray(Tissue, interop.to_xarray(atoms, dims=["atom"])).T2
    tensor([0.0500, 0.1000])
    """
    for name, variable in dataset.data_vars.items():
        owner = kind
        *heads, last = name.split(".")
        for head in heads:
            owner = _kind_of(owner, head)
        unit = meanings(owner).get(last, Meaning()).unit
        said = variable.attrs.get("units")
        if None not in (unit, said) and unit != said:
            raise ValueError(
                f"interop.from_xarray: {name} is in {said}, but {owner.__name__}.{last}"
                f" is in {unit}; convert it with mrsim.units and set its units"
            )
    arrays = {name: value.to_numpy() for name, value in dataset.data_vars.items()}
    return from_numpy(kind, arrays, **structure)


def _check_record(where: str, record: Any) -> None:
    if not is_record(record):
        raise TypeError(
            f"{where}: takes a record such as mrsim.Tissue, got a"
            f" {type(record).__name__}"
        )


def _kind_of(kind: Any, name: str) -> Any:
    """Return the class of the record in a field."""
    wanted = typing.get_type_hints(kind).get(name)
    for part in (wanted, *typing.get_args(wanted)):
        if hasattr(part, "__dataclass_fields__"):
            return part
    raise TypeError(f"interop: {kind.__name__}.{name} holds no record")


def _named(
    name: str, rank: int, shapes: tuple[tuple[str, ...], ...], dims: tuple[str, ...]
) -> tuple[str, ...]:
    """Name the axes of a field; one that is no name (a 3) gets the field's."""
    known = shapes or (("?",) * max(rank - len(dims), 0),)
    for lead in (dims, ()):
        for shape in known:
            if len(lead) + len(shape) == rank:
                own = [
                    axis if axis.isidentifier() else f"{name}_{k}"
                    for k, axis in enumerate(shape)
                ]
                return (*lead, *own)
    allowed = " or ".join(f"({', '.join((*dims, *shape))})" for shape in known)
    raise ValueError(
        f"interop.to_xarray: {name} has {rank} axes, but {allowed} are named; name the"
        f" batch axes with dims"
    )
