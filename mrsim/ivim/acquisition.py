"""What is chosen for each sample of an IVIM acquisition, and its checks."""

from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats, concrete, warn
from mrsim.tree import fields, names, record

_SMALLEST_B = 10.0
_LARGEST_B = 1e5
_LONGEST = 60.0
_TIMES = {"TE", "TR", "delta", "Delta", "T", "T1b", "T1t", "T2b", "T2t"}
_SHARES = {"f", "f1", "f2"}
_SPEEDS = {"Dp", "D", "D0", "D1", "D2", "Dstar", "Db"}
_FASTEST = 1.0


@record
class Acquisition:
    """The diffusion weighting and timing of each sample; ``None``: not part of a model.

    Every field but ``b`` and ``bvec`` may also be () and then holds for all samples.
    """

    b: Tensor  # (sample,) diffusion weighting [s/mm²]
    bvec: Tensor | None = None  # (sample, 3) unit directions; zeros where b = 0
    c: Tensor | None = None  # (sample,) |∫∫G| γ: flow weighting [s/mm]; 0: compensated
    TE: Tensor | None = None  # (sample,) echo time [s]
    TR: Tensor | None = None  # (sample,) repetition time [s]
    delta: Tensor | None = None  # (sample,) length of a gradient lobe [s]
    Delta: Tensor | None = None  # (sample,) onset to onset of a pair of lobes [s]
    T: Tensor | None = None  # (sample,) whole encoding of two pairs [s]; None: one pair
    k: Tensor | None = None  # (sample,) second pair: 1 same polarity, -1 compensated


def check_inputs(
    params: Any, acquisition: Acquisition, **shapes: list[tuple[int, ...]]
) -> None:
    """Require one dtype, one device and the shapes of one voxel, inside transforms too.

    Args:
        params: parameters of one voxel, scalars unless stated.
        acquisition: its samples.
        **shapes: name of a parameter → the shapes that it may have.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.
    """
    check_floats("ivim.signal", **vars(params), **vars(acquisition))
    b = acquisition.b
    if b.ndim != 1:
        raise ValueError(
            f"ivim.signal: b must have shape (sample,), got {tuple(b.shape)};"
            f" map over acquisitions with vmap(ivim.signal, in_dims=(None, 0))"
        )
    for field in fields(acquisition):
        value = getattr(acquisition, field.name)
        allowed = [(*b.shape, 3)] if field.name == "bvec" else [(), tuple(b.shape)]
        if value is not None and tuple(value.shape) not in allowed:
            raise ValueError(
                f"ivim.signal: {field.name} must have shape"
                f" {' or '.join(map(str, allowed))} for {len(b)} b values, got"
                f" {tuple(value.shape)}"
            )
    for field in fields(params):
        value = getattr(params, field.name)
        allowed = shapes.get(field.name, [()])
        if value is not None and tuple(value.shape) not in allowed:
            raise ValueError(
                f"ivim.signal: {field.name} must have shape"
                f" {' or '.join(map(str, allowed))}, got {tuple(value.shape)};"
                f" map over voxels with vmap(ivim.signal, in_dims=(0, None))"
            )


def needed(model: str, acquisition: Acquisition, name: str) -> Tensor:
    """Return a field of the acquisition that a model cannot do without.

    Raises:
        ValueError: it is ``None``.
    """
    value = getattr(acquisition, name)
    if value is None:
        raise ValueError(
            f"ivim.signal: {model} needs the field {name!r} of the acquisition, which"
            f" is None; give Acquisition({name}=...)"
        )
    return value


def check(x: Any) -> Any:
    """Check the values of parameters or of an acquisition; return the record unchanged.

    Call it outside transforms: values that something traces are not looked at. NaN
    passes, so that single bad voxels do.

    Args:
        x: an `Acquisition`, or the parameters of any model, of one voxel or of a batch.

    Returns:
        The same record.

    Raises:
        ValueError: b, a time or a diffusivity is negative, a fraction lies outside
            [0, 1], a gradient lobe is longer than its pair or the pairs than the
            encoding, or units are plainly wrong.

    >>> from mrsim import ivim
    >>> q = ivim.check(ivim.Acquisition(b=[0.0, 50.0, 800.0]))
    """
    present = {n: getattr(x, n) for n in names(x) if getattr(x, n) is not None}
    looked = {n: v.detach() for n, v in present.items() if concrete(v) and v.numel()}
    where = type(x).__name__
    for name, value in looked.items():
        # what is off the diagonal of a tensor may have any sign
        tensor = where == "DTI" and value.shape[-1:] == (6,)
        _check_range(where, name, value[..., :3] if tensor else value)
    _check_b(looked)
    _check_timing(looked)
    return x


def _check_range(where: str, name: str, value: Tensor) -> None:
    low, high = value.nan_to_num(0.0).aminmax()
    if name in _TIMES | _SPEEDS | _SHARES | {"b", "v", "tau"} and low < 0:
        raise ValueError(f"{where}: {name} must not be negative, got {float(low):g}")
    if name in _SHARES and high > 1:
        raise ValueError(
            f"{where}: {name} is a fraction in [0, 1], got {float(high):g};"
            f" if it is in percent, divide by 100"
        )
    if name in _SPEEDS and high > _FASTEST:
        raise ValueError(
            f"{where}: {name} = {float(high):g} mm²/s is no diffusivity;"
            f" write {float(high):g} * units.um**2 / units.ms if it is in µm²/ms"
        )
    if name in _TIMES and high > _LONGEST:
        raise ValueError(
            f"{where}: {name} = {float(high):g} s looks like milliseconds;"
            f" write {float(high):g} * units.ms"
        )


def _check_b(looked: dict[str, Tensor]) -> None:
    if "b" not in looked:
        return
    largest = float(looked["b"].nan_to_num(0.0).amax())
    if largest < _SMALLEST_B:
        raise ValueError(
            f"Acquisition: the largest b is {largest:g}; mrsim takes s/mm²:"
            f" if it is in ms/µm², write b = {largest:g} * units.ms / units.um**2"
        )
    if largest > _LARGEST_B:
        raise ValueError(
            f"Acquisition: the largest b is {largest:g}; mrsim takes s/mm²:"
            f" if it is in s/m², write b = {largest:g} / units.m**2"
        )
    if "bvec" not in looked:
        return
    norm = looked["bvec"].norm(dim=-1)
    off = (norm - 1).abs() > 0.01
    strange = off & ((looked["b"] > _SMALLEST_B) | (norm > 0.01))
    if strange.any():
        warn(
            f"Acquisition: {int(strange.sum())} of {strange.numel()} directions in bvec"
            f" are not of length 1; their b is multiplied by its square"
        )


def _check_timing(looked: dict[str, Tensor]) -> None:
    if {"delta", "Delta"} <= looked.keys() and (
        looked["delta"] > looked["Delta"]
    ).any():
        raise ValueError(
            "Acquisition: delta, the length of a gradient lobe, must not exceed Delta,"
            " the time between the onsets of the two lobes; are they swapped?"
        )
    if {"delta", "Delta", "T"} <= looked.keys():
        pairs = 2 * (looked["delta"] + looked["Delta"])
        if (looked["T"] < pairs * (1 - 8 * torch.finfo(pairs.dtype).eps)).any():
            raise ValueError(
                "Acquisition: T, the whole encoding, must be at least"
                " 2 (Delta + delta), the length of its two pairs of lobes"
            )


def check_data(data: Tensor, acquisition: Acquisition, *, zero: bool = True) -> None:
    """Require measured signals that fit their acquisition, outside transforms.

    Args:
        data: (..., sample) measured signals; NaN and non-positive values pass.
        acquisition: of all voxels.
        zero: require a sample of (almost) no diffusion weighting, b < 10 s/mm².

    Raises:
        ValueError: lengths differ, there is no voxel, or every b is at least 10 s/mm².

    >>> import torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 50.0, 800.0])
    >>> ivim.check_data(torch.ones(7, 3), q)
    >>> try:
    ...     ivim.check_data(torch.ones(7, 4), q)
    ... except ValueError as error:
    ...     print(str(error)[:60])
    ivim: the last axis of the data must be the 3 samples of the
    """
    check(acquisition)
    if acquisition.b.ndim != 1:
        raise ValueError(
            f"ivim: b must have shape (sample,), for all voxels, got"
            f" {tuple(acquisition.b.shape)}; where each voxel has b values of its own,"
            f" map by vmap of ivim.varpro, or of mrsim.fit with ivim.signal"
        )
    samples = len(acquisition.b)
    if not data.numel():
        raise ValueError(
            f"ivim: the data hold no voxel, shape {tuple(data.shape)}; is the mask zero"
            f" everywhere?"
        )
    if data.ndim == 0 or data.shape[-1] != samples:
        raise ValueError(
            f"ivim: the last axis of the data must be the {samples} samples of the"
            f" acquisition, got shape {tuple(data.shape)};"
            f" move it there with data.movedim(axis, -1)"
        )
    smallest = acquisition.b.detach().amin() if concrete(acquisition.b) else 0
    if zero and smallest >= _SMALLEST_B:
        raise ValueError(
            f"ivim: the smallest b is {float(smallest):g} s/mm², but without an image"
            f" at b = 0 f and Dp cannot be told apart; add one, or fit S0 and D alone"
        )
