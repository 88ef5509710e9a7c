"""Which path a simulation takes, and why."""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from mrsim import _native
from mrsim.epg.kernels import call
from mrsim.epg.kernels.call import Physics
from mrsim.epg.kernels.passes import triton_passes
from mrsim.epg.plan import Plan
from mrsim.epg.pools import Pools

Path = Literal["auto", "fused", "torch"]
_MOST_POOLS = 8
_chosen: ContextVar[Path | None] = ContextVar("engine", default=None)


class EngineInfo(NamedTuple):
    """Which path runs: the compiled kernel ("fused") or plain torch, and why."""

    path: Literal["fused", "torch"]
    why: str


@contextlib.contextmanager
def use_engine(path: Path) -> Iterator[None]:
    """Choose the path of all simulations within.

    Args:
        path: "torch" for the torch path; "fused" for the compiled kernel, whose failure
            is then an error where it could run; "auto" for what fits.

    Yields:
        Nothing.

    Raises:
        ValueError: there is no such path.

    >>> from mrsim import epg
    >>> with epg.use_engine("torch"):
    ...     epg.engine_info().path
    'torch'
    """
    if path not in get_args(Path):
        raise ValueError(
            f"epg.use_engine: the paths are 'auto', 'fused' and 'torch', got {path!r}"
        )
    token = _chosen.set(path)
    try:
        yield
    finally:
        _chosen.reset(token)


def wanted() -> Path:
    """Return the path asked for, by `use_engine` or the variable MRSIM_ENGINE."""
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    named = os.environ.get("MRSIM_ENGINE") or "auto"
    if named not in get_args(Path):
        raise ValueError(
            f"MRSIM_ENGINE: the paths are 'auto', 'fused' and 'torch', got {named!r};"
            f" set the variable to one of them or unset it"
        )
    return named  # pyright: ignore[reportReturnType]


def physics_of(plan: Plan, pools: Pools, fields: dict[str, Tensor]) -> Physics:
    """Return what a kernel must be compiled for."""
    driven = pools.bound and bool({"saturation", "power"} & fields.keys())
    moves = bool({"D", "v"} & fields.keys())
    return Physics(
        double=fields["T1"].dtype == torch.float64,
        parts=1 if plan.real else 2,
        free=pools.free,
        pools=pools.count,
        bound=(1 + pools.dipolar) * bool(driven),
        shifted=pools.shifted,
        motion=moves and "moment" in fields,
        own=pools.count == 1 and not moves and fields["T1"].device.type == "cpu",
    )


def obstacle(plan: Plan, pools: Pools, fields: dict[str, Tensor]) -> str:
    """Return why a simulation cannot take the fused path; empty if it can."""
    if wanted() == "torch":
        return "the torch path was asked for"
    if plan.axes.sizes:
        return "orders along three axes, and T2′, run on the torch path"
    if "P_re" in fields or plan.knots[-1].kind == "end":
        return "states that come in or go out run on the torch path"
    if pools.apart:
        return "pools of their own D or v run on the torch path"
    if pools.count > _MOST_POOLS:
        return f"more than {_MOST_POOLS} pools run on the torch path"
    physics, devices = (
        physics_of(plan, pools, fields),
        {x.device for x in fields.values()},
    )
    if {d.type for d in devices} == {"cpu"}:
        return followed() or missing(physics)
    if {d.type for d in devices} == {"cuda"}:
        return followed() or triton_passes().obstacle(*devices)
    return "there are kernels for CPUs and CUDA devices only"


def described(device: torch.device) -> str:
    """Return what the fused path is on a device.

    Args:
        device: a CPU or a CUDA device.

    Returns:
        The kernel and where it comes from.
    """
    if device.type == "cpu":
        return f"compiled for this CPU, kept in {_native.cache()}"
    return f"compiled by Triton for {torch.cuda.get_device_name(device)}"


def followed() -> str:
    """Return what follows torch's operations one by one; empty if nothing does."""
    if torch.compiler.is_compiling():
        return "torch.compile takes the torch path"
    for mode in _get_current_dispatch_mode_stack():
        if type(mode).__module__.startswith("torch."):
            return f"{type(mode).__name__} follows the torch path"
    return ""


def missing(physics: Physics) -> str:
    """Return why there is no kernel; empty if there is one."""
    made = call.kernel(physics)
    if not isinstance(made, str):
        return ""
    if wanted() == "fused":
        raise RuntimeError(f"epg: the fused path was asked for, but {made}")
    return made
