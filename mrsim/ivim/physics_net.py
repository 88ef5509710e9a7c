"""Networks that reproduce signals through the bi-exponential model."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.ivim._limits import SHIFT, Box
from mrsim.ivim.acquisition import Acquisition, check_data
from mrsim.ivim.exponential import Biexp
from mrsim.ivim.layers import Weights, layers

_SAME_B = 0.5  # s/mm²


class PhysicsNet(NamedTuple):
    """A network from signals to the parameters of `Biexp`."""

    weights: Weights  # every tensor has the axis (member,) first
    b: Tensor  # (sample,) [s/mm²]
    outputs: str  # "ordered": S0, f, D < Dp in the box; "abs": f, Dp, D as |x|
    box: Box


def unweighted(b: Tensor) -> Tensor:
    """Tell which samples have the least diffusion weighting, b = 0."""
    return b <= b.amin() + _SAME_B


def seen(x: Tensor, b: Tensor, outputs: str) -> Tensor:
    """Return what the network sees of normalised signals: "abs" drops b = 0."""
    return x[..., ~unweighted(b)] if outputs == "abs" else x


def decoded(x: Tensor, outputs: str, box: Box) -> dict[str, Tensor]:
    """Turn the network's numbers into parameters.

    Args:
        x: (..., 3 or 4): for Dp, D, f and S0.
        outputs: as in `PhysicsNet`.
        box: bounds, of ``"ordered"``.

    Returns:
        name → (...).
    """
    if outputs == "abs":
        Dp, D, f = x.abs().unbind(-1)
        return {"S0": torch.ones_like(f), "f": f, "Dp": Dp, "D": D}
    share = dict(zip(("Dp", "D", "f", "S0"), x.sigmoid().unbind(-1), strict=True))
    D = _within(share["D"], *box["D"])
    low = D.clamp_min(box["Dp"][0])
    Dp = _within(share["Dp"], low, box["Dp"][1])
    f = box["f"][0] + (box["f"][1] - box["f"][0]) * share["f"]
    S0 = box["S0"][0] + (box["S0"][1] - box["S0"][0]) * share["S0"]
    return {"S0": S0, "f": f, "Dp": Dp, "D": D}


def _within(share: Tensor, low: float | Tensor, high: float) -> Tensor:
    """Interpolate between bounds, evenly in log(D + SHIFT)."""
    start = torch.as_tensor(low + SHIFT, dtype=share.dtype, device=share.device)
    ratio = ((high + SHIFT) / start).log()
    return start * torch.exp(share * ratio) - SHIFT


def physics_params(net: PhysicsNet, data: Tensor) -> Biexp:
    """Estimate the bi-exponential parameters of voxels.

    For outputs ``"abs"`` the repair of Barbieri 2020 is applied: a network whose Dp is
    smaller than D in the mean over all voxels has its labels swapped.

    Args:
        net: as of `train_physics`.
        data: (..., sample) signals at the network's b values.

    Returns:
        The parameters, every leaf (member, ...).

    Raises:
        ValueError: the number of samples is not that of the network.

    >>> import torch
    >>> from mrsim import ivim
    >>> g = torch.Generator().manual_seed(0)
    >>> q = ivim.Acquisition(b=[0.0, 20.0, 200.0, 800.0])
    >>> y = torch.tensor([1.0, 0.9, 0.7, 0.4]) + 0.01 * torch.rand(256, 4, generator=g)
    >>> p = ivim.physics_params(ivim.train_physics(y, q, g, epochs=1).net, y)
    >>> p.f.shape, bool((p.D < p.Dp).all())
    (torch.Size([1, 256]), True)
    """
    check_data(data, Acquisition(b=net.b))
    flat = data.reshape(-1, data.shape[-1]).to(net.b)
    scale = flat[:, unweighted(net.b)].mean(-1)
    x = seen(flat / scale.unsqueeze(-1), net.b, net.outputs)
    made = vmap(layers(net.weights, "ELU"), in_dims=(0, None))(net.weights, x)
    named = decoded(made, net.outputs, net.box)
    if net.outputs == "abs":
        gap = (named["D"] - named["Dp"]).nan_to_num(0.0, 0.0, 0.0)  # no voxel's own
        swap = gap.sum(-1, keepdim=True) > 0
        Dp = torch.where(swap, named["D"], named["Dp"])
        D = torch.where(swap, named["Dp"], named["D"])
        named |= {"Dp": Dp, "D": D, "f": torch.where(swap, 1 - named["f"], named["f"])}
    named["S0"] = named["S0"] * scale
    shape = (len(made), *data.shape[:-1])
    return Biexp(**{n: v.reshape(shape) for n, v in named.items()})
