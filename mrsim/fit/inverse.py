"""Covariances of a whole batch at once, the singular ones by a slower way."""

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from mrsim._covariance import covariance
from mrsim._remat import Segment, apply

_SAFE = 20.0  # times p and eps: twice what `covariance` takes for singular


class Inverse(torch.autograd.Function):
    """`mrsim.covariance` of Fisher matrices (..., p, p).

    Most are far from singular and are simply inverted; only the others need their
    eigenvectors, which take ten times as long.
    """

    @staticmethod
    def forward(curve: Tensor) -> Tensor:
        """Invert."""
        size = curve.shape[-1]
        flat = curve.reshape(-1, size, size)
        wide = flat.double()
        unit = wide.diagonal(dim1=-2, dim2=-1).clamp_min(0).rsqrt()
        square = unit.unsqueeze(-1) * unit.unsqueeze(-2)
        inverse = torch.linalg.inv_ex(wide * square)[0]
        # 1/‖A⁻¹‖ is at most the smallest eigenvalue, which must not be rounding noise
        least = _SAFE * size * torch.finfo(curve.dtype).eps
        sound = inverse.square().sum((-2, -1)).sqrt() * least < 1
        made = (inverse * square).to(curve.dtype)
        rest = (~sound).nonzero()[:, 0]
        if len(rest):
            made = made.index_copy(0, rest, vmap(covariance)(flat[rest]))
        return made.reshape(curve.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save the matrices."""
        del output
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        """Return the cotangent of the matrices."""
        return apply(Segment(_pull, 1), *ctx.saved_tensors, *cotangents)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return the tangent of the covariances."""
        return apply(Segment(_push, 1), *ctx.saved_tensors, *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], curve: Tensor) -> Any:
        """Take the mapped axis as one more of the batch."""
        del info
        return Inverse.apply(curve.movedim(in_dims[0], 0)), 0


def _every(curve: Tensor) -> Tensor:
    size = curve.shape[-1]
    return vmap(covariance)(curve.reshape(-1, size, size)).reshape(curve.shape)


def _push(curve: Tensor, tangent: Tensor) -> Tensor:
    return jvp(_every, (curve.contiguous(),), (tangent.contiguous(),))[1]


def _pull(curve: Tensor, cotangent: Tensor) -> Tensor:
    _, pull, *_ = vjp(_every, curve)
    return pull(cotangent)[0]
