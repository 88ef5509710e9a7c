"""Tissue maps at 3 T from fractions of grey matter, white matter and CSF."""

import torch
from torch import Tensor

from mrsim.tissue import Tissue
from mrsim.units import ms

GREY = {"T1": 1820 * ms, "T2": 99 * ms, "M0": 0.83}
WHITE = {"T1": 1084 * ms, "T2": 69 * ms, "M0": 0.71}
CSF = {"T1": 4300 * ms, "T2": 2000 * ms, "M0": 1.0}


def brain(grey: Tensor, white: Tensor, csf: Tensor) -> Tissue:
    r"""Mix the literature values of the brain's tissues at 3 T by volume fractions.

    Water adds up, M0 = Σ fᵢ M0ᵢ, and exchanges fast within a voxel, so that rates are
    weighted by water: 1/T = Σ fᵢ M0ᵢ/Tᵢ / M0 for T1 and T2. Voxels without any tissue
    are zero in all maps.

    Args:
        grey: volume fraction of grey matter [1], of any shape.
        white: volume fraction of white matter [1], of the same shape.
        csf: volume fraction of cerebrospinal fluid [1], of the same shape.

    Returns:
        A Tissue with T1 [s], T2 [s] and M0 [water content of CSF] of that shape.

    Reference:
        T1, T2 of grey and white matter: Stanisz 2005 (MRM 54:507); of CSF, rounded:
        Rooney 2007 (MRM 57:308), Spijkerman 2018 (MAGMA 31:415). Water content:
        Whittall 1997 (MRM 37:34).

    >>> import torch
    >>> half, none = torch.tensor([0.5, 0.0]), torch.zeros(2)
    >>> brain(half, half, none).T2
    tensor([0.0825, 0.0000])
    """
    parts = [(grey, GREY), (white, WHITE), (csf, CSF)]
    water = torch.stack([f * x["M0"] for f, x in parts]).sum(0)
    present = water > 0

    def mixed(name: str) -> Tensor:
        rate = torch.stack([f * x["M0"] / x[name] for f, x in parts]).sum(0)
        return torch.where(present, water / torch.where(present, rate, 1.0), 0.0)

    return Tissue(T1=mixed("T1"), T2=mixed("T2"), M0=water)
