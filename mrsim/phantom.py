"""Heads: maps of T1, T2 and M0 at 3 T from fractions of the brain's tissues."""

import sys
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim import io
from mrsim._explained import explain as _explain
from mrsim.tissue import Tissue
from mrsim.tree import tree_map
from mrsim.units import ms

GREY = {"T1": 1820 * ms, "T2": 99 * ms, "M0": 0.83}
WHITE = {"T1": 1084 * ms, "T2": 69 * ms, "M0": 0.71}
CSF = {"T1": 4300 * ms, "T2": 2000 * ms, "M0": 1.0}


class Head(NamedTuple):
    """Maps of a head, and where they lie in the scanner."""

    tissue: Tissue  # T1 [s], T2 [s], M0 [water content of CSF], each (x, y, z)
    mask: Tensor  # (x, y, z) bool: voxels of brain
    like: io.Image  # (x, y, z) T1-weighted, with the affine


def mni152() -> Head:
    """Turn the average of 152 brains (MNI, 1 mm) into maps at 3 T.

    The fractions of grey and white matter are those in nilearn's wheel (extra
    ``demo``); nothing is downloaded. What is neither counts as CSF, see `brain`.

    Returns:
        The maps, in float32. Voxels of the mask hold at least as much grey and white
        matter as CSF.

    Raises:
        ImportError: nilearn is not installed.
        InputError: it is, but without these files.

    Reference:
        Fonov 2011 (NeuroImage 54:313).

    >>> from mrsim import phantom
    >>> head = phantom.mni152()
    >>> head.tissue.T2.shape, int(head.mask.sum())
    (torch.Size([197, 233, 189]), 1729575)
    """
    images = {name: io.load(path) for name, path in io.mni152().items()}
    inside = images["t1"].data > 0
    grey, white = (images[name].data[inside] / 255 for name in ("gm", "wm"))
    voxels = brain(grey, white, (1 - grey - white).clamp(min=0))

    def volume(v: Tensor) -> Tensor:
        return v.new_zeros(inside.shape).masked_scatter(inside, v)

    return Head(tree_map(volume, voxels), volume(grey + white >= 0.5), images["t1"])


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


_explain(sys.modules[__name__])
