"""Faces of tetrahedra: which are the outer surface, which interfaces, which a fault."""

from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.torrey._plausible import check_element_size

# every corner's opposite face, outward normal where the volume is positive
OPPOSITE = torch.tensor([[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]])
_FLAT = 1e-12  # volume against the cube of the longest edge


class Faces(NamedTuple):
    """The outer facets and the interface facets of a mesh, as numbers of points."""

    outer: Tensor  # (facet, 3), normals outwards
    outer_home: Tensor  # (facet,) compartment inside
    outer_element: Tensor  # (facet,) element inside
    inner: Tensor  # (facet, 3), normals out of the lower compartment
    inner_home: Tensor  # (facet, 2) compartments of both sides, ascending
    inner_element: Tensor  # (facet,) element on the lower side
    homes: int  # number of compartments


def check_elements(points: Tensor, elements: Tensor, compartment: Tensor) -> None:
    """Refuse what is no tetrahedral mesh, with the number of the first bad element."""
    count = points.shape[0]
    if not len(elements):
        raise ValueError("make_mesh: there is no element")
    if len(compartment) != len(elements):
        raise ValueError(
            f"make_mesh: {len(elements)} elements came with {len(compartment)}"
            f" compartment markers; element {min(len(elements), len(compartment))} is"
            f" the first without its partner"
        )
    bad = ~points.isfinite().all(-1)
    if bad.any():
        raise ValueError(f"make_mesh: point {_first(bad)} is not finite")
    outside = ((elements < 0) | (elements >= count)).any(-1)
    _refuse(outside, elements, f"names a point outside 0 … {count - 1}")
    ordered = elements.sort(-1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(-1)
    _refuse(twice, elements, "names a point twice")
    number = rank_rows(ordered)
    _refuse(number.bincount()[number] > 1, elements, "occurs twice")
    _check_sizes(points, elements)


def signed(tetra: Tensor) -> Tensor:
    """Return signed volumes of tetrahedra (…, 4, 3): (…,)."""
    a, b, c, d = tetra.unbind(-2)
    return ((b - a) * torch.linalg.cross(c - a, d - a)).sum(-1) / 6


def _check_sizes(points: Tensor, elements: Tensor) -> None:
    at = points.detach().double()[elements]
    volume = signed(at)
    longest = (at[:, :, None] - at[:, None]).norm(dim=-1).amax((-1, -2))
    flat = volume.abs() <= _FLAT * longest**3
    _refuse(flat, elements, "is flat: its corners lie in one plane")
    remedy = "is inverted (negative volume); torrey.orient(points, elements) turns it"
    _refuse(volume < 0, elements, remedy)
    check_element_size("make_mesh", volume)


def _refuse(bad: Tensor, elements: Tensor, why: str) -> None:
    if bad.any():
        k = _first(bad)
        more = int(bad.sum()) - 1
        others = f" (and {more} more)" if more else ""
        raise ValueError(
            f"make_mesh: element {k}, of points {elements[k].tolist()}, {why}{others}"
        )


def _first(bad: Tensor) -> int:
    return int(bad.nonzero()[0, 0])


def find_faces(elements: Tensor, compartment: Tensor) -> Faces:
    """Sort the faces of all elements into outer facets and interfaces.

    Args:
        elements: numbers of points (element, 4), positively oriented.
        compartment: (element,) from 0.

    Returns:
        The faces.

    Raises:
        ValueError: three elements share a face, or two lie on the same side of one.
    """
    device = elements.device
    opposite = OPPOSITE.to(device)
    every = elements[:, opposite].reshape(-1, 3)
    element = torch.arange(len(elements), device=device).repeat_interleave(4)
    number = rank_rows(every.sort(-1).values)
    times = number.bincount()
    many = times[number] > 2
    _refuse(many.reshape(-1, 4).any(-1), elements, "shares a face with two others")
    # sorted by face, then by compartment: partners follow each other
    homes = int(compartment.amax()) + 1
    order = (number * homes + compartment[element]).argsort(stable=True)
    paired = order[times[number[order]] == 2].reshape(-1, 2)
    lower, upper = paired.unbind(-1)
    same = _even(every[lower]) == _even(every[upper])
    clash = torch.zeros(len(elements), dtype=torch.bool, device=device)
    clash = clash.index_fill(0, element[upper[same]], value=True)
    _refuse(clash, elements, "lies on the same side of a face as another: they overlap")
    across = compartment[element[lower]] != compartment[element[upper]]
    lower, upper = lower[across], upper[across]
    alone = (times[number] == 1).nonzero()[:, 0]
    return Faces(
        outer=every[alone],
        outer_home=compartment[element[alone]],
        outer_element=element[alone],
        inner=every[lower],
        inner_home=compartment[element[torch.stack([lower, upper], -1)]],
        inner_element=element[lower],
        homes=homes,
    )


def rank_rows(rows: Tensor) -> Tensor:
    """Number rows of whole numbers: equal rows alike, in lexical order from 0."""
    count = int(rows.amax()) + 1 if rows.numel() else 1
    rank = rows[:, 0]
    for column in rows[:, 1:].unbind(-1):  # far faster than unique(dim=0)
        rank = (rank * count + column).unique(return_inverse=True)[1]
    return rank


def _even(triangles: Tensor) -> Tensor:
    """Tell whether an even permutation sorts each triangle."""
    a, b, c = triangles.unbind(-1)
    return ((a > b).long() + (b > c).long() + (a > c).long()) % 2 == 0


def place_facets(faces: Faces, facets: Tensor, marker: Tensor) -> tuple[Tensor, Tensor]:
    """Give every outer and every interface facet the marker listed for it.

    Args:
        faces: the mesh's own facets.
        facets: the facets listed, as numbers of points (facet, 3).
        marker: (facet,).

    Returns:
        Markers of ``faces.outer`` and of ``faces.inner``.

    Raises:
        ValueError: a facet listed is none of these, is listed twice, or is missing.
    """
    own = torch.cat([faces.outer, faces.inner]).sort(-1).values
    both = torch.cat([own, facets.sort(-1).values])
    number = rank_rows(both)
    mine, listed = number[: len(own)], number[len(own) :]
    known = torch.isin(listed, mine)
    if not known.all():
        k = _first(~known)
        raise ValueError(
            f"make_mesh: facet {k}, of points {facets[k].tolist()}, lies neither on the"
            f" outer surface nor between two compartments; leave it out, or give the"
            f" elements of its two sides different compartments"
        )
    _, place, times = listed.unique(return_inverse=True, return_counts=True)
    if (times > 1).any():
        k = _first(times[place] > 1)
        raise ValueError(
            f"make_mesh: facet {k}, of points {facets[k].tolist()}, is listed twice"
        )
    found = torch.isin(mine, listed)
    if not found.all():
        k = _first(~found)
        element = torch.cat([faces.outer_element, faces.inner_element])[k]
        kind = "outer" if k < len(faces.outer) else "interface"
        raise ValueError(
            f"make_mesh: element {int(element)} has an {kind} facet, of points"
            f" {own[k].tolist()}, without marker ({int((~found).sum())} in all);"
            f" list every outer and every interface facet, or none"
        )
    table = torch.zeros(int(number.amax()) + 1, dtype=torch.long, device=facets.device)
    marks = table.index_copy(0, listed, marker)[mine]
    return marks[: len(faces.outer)], marks[len(faces.outer) :]
