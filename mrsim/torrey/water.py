"""Properties of the water in the compartments of a mesh and at its surfaces."""

import math

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey.mesh import Topology
from mrsim.tree import neutral, record


@record
class Water:
    """Water in the compartments of a mesh, and how surfaces let it through.

    Any field may be scalar: then it is the same in every compartment or at every
    surface. A diffusion tensor (3, 3) is the same in every compartment.
    """

    D: Tensor  # (compartment,) or (compartment, 3, 3) diffusivity [mm²/s]
    T2: Tensor | None = neutral(math.inf)  # (compartment,) relaxation time [s]
    rho: Tensor | None = neutral(1.0)  # (compartment,) spin density [signal/mm³]
    kappa: Tensor | None = neutral(0.0)  # (inner marker,) permeability [mm/s]
    relaxivity: Tensor | None = neutral(0.0)  # (outer marker,) of the surface [mm/s]


def spread(where: str, water: Water, topology: Topology) -> Water:
    """Check the shapes of a water record and give every field its full axis.

    Args:
        where: the function that asks, for messages.
        water: any of the forms that `Water` takes.
        topology: connectivity, of which only the static counts are read.

    Returns:
        The record with D (compartment, 3, 3), T2 and rho (compartment,), kappa
        (inner marker,), relaxivity (outer marker,); absent fields stay absent.

    Raises:
        ValueError: a field has another length.

    >>> import torch
    >>> from mrsim.torrey import mesh, water
    >>> tetra = [[0.0, 0, 0], [1e-2, 0, 0], [0, 1e-2, 0], [0, 0, 1e-2]]
    >>> nodes, topology = mesh.make_mesh(tetra, [[0, 1, 2, 3]])
    >>> water.spread("pgse", water.Water(D=2e-3), topology).D.shape
    torch.Size([1, 3, 3])
    """
    check_floats(where, **vars(water))
    rows = topology.compartments

    def full(name: str, count: int, axis: str) -> Tensor | None:
        value = getattr(water, name)
        if value is None or tuple(value.shape) == (count,):
            return value
        if value.ndim:
            raise ValueError(
                f"{where}: Water.{name} must have shape ({axis},) = ({count},) or be"
                f" scalar, got {tuple(value.shape)}; map over a batch with vmap"
            )
        return value.expand(count)

    return Water(
        D=_tensors(where, water.D, rows),
        T2=full("T2", rows, "compartment"),
        rho=full("rho", rows, "compartment"),
        kappa=full("kappa", topology.inners, "inner marker"),
        relaxivity=full("relaxivity", topology.outers, "outer marker"),
    )


def _tensors(where: str, D: Tensor, rows: int) -> Tensor:
    eye = torch.eye(3, dtype=D.dtype, device=D.device)
    shape = tuple(D.shape)
    if shape in {(), (rows,)}:
        return D.expand(rows)[:, None, None] * eye
    if shape in {(3, 3), (rows, 3, 3)}:
        return D.expand(rows, 3, 3)
    raise ValueError(
        f"{where}: Water.D must have shape (compartment,) = ({rows},),"
        f" ({rows}, 3, 3), (3, 3) or be scalar, got {shape}; map over a batch with vmap"
    )
