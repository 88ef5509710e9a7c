"""Neuron-like trees of capsules, meshed without any external program."""

import torch
from torch import Tensor

from mrsim.torrey._memory import demand_elements
from mrsim.torrey.mesh import Nodes, Topology, make_mesh
from mrsim.torrey.stuffing import stuff
from mrsim.tree import record

_AT_ONCE = 2**22  # distances of points to capsules computed together


@record
class Capsules:
    """Round cones: what a neuron's soma and the segments of its dendrites are."""

    start: Tensor  # (capsule, 3) one end of the axis [mm]
    stop: Tensor  # (capsule, 3) the other end; equal to start: a ball
    start_radius: Tensor  # (capsule,) [mm]
    stop_radius: Tensor  # (capsule,) [mm]


def capsule_distances(capsules: Capsules, points: Tensor) -> Tensor:
    """Return the distance of points to every capsule's surface, negative inside.

    d = |p − a − t (b − a)| − (rₐ + t (r_b − rₐ)), t the nearest place on the axis.

    Args:
        capsules: (capsule,) of them.
        points: (point, 3) [mm].

    Returns:
        (point, capsule) [mm].
    """
    along = capsules.stop - capsules.start
    square = along.square().sum(-1)
    # |p − a − t v|² multiplied out: products of matrices, a fifth of the time
    place = points @ along.mT - (capsules.start * along).sum(-1)
    t = (place / torch.where(square > 0, square, 1.0)).clamp(0, 1)
    away = points.square().sum(-1, keepdim=True) - 2 * points @ capsules.start.mT
    away = away + capsules.start.square().sum(-1) + t * (t * square - 2 * place)
    least = torch.finfo(points.dtype).tiny
    radius = torch.lerp(capsules.start_radius, capsules.stop_radius, t)
    return away.clamp_min(least).sqrt() - radius


def neuron_distance(capsules: Capsules, points: Tensor, blend: float) -> Tensor:
    """Return about the signed distance to a smooth union of capsules.

    d = −blend log Σ exp(−dᵢ / blend): where several capsules meet, the surface lies
    up to blend·log(capsules) further out, which rounds the corners between them.

    Args:
        capsules: (capsule,) of them.
        points: (point, 3) [mm].
        blend: width of the rounding [mm].

    Returns:
        (point,) [mm], negative inside.

    >>> import torch
    >>> from mrsim import torrey
    >>> ball = torrey.Capsules(
    ...     start=[[0.0] * 3], stop=[[0.0] * 3], start_radius=[2.0], stop_radius=[2.0])
    >>> torrey.neuron_distance(ball, torch.tensor([[0.0, 0.0, 5.0]]), blend=0.1)
    tensor([3.])
    """
    chunk = max(1, _AT_ONCE // max(1, len(capsules.start)))
    parts = [
        -blend * torch.logsumexp(-capsule_distances(capsules, p) / blend, -1)
        for p in points.split(chunk)
    ]
    return torch.cat(parts) if parts else points.new_zeros(0)


def mesh_neuron(
    capsules: Capsules, size: float, blend: float | None = None
) -> tuple[Nodes, Topology]:
    """Mesh the smooth union of capsules by isosurface stuffing.

    Args:
        capsules: connected; from a file by ``mrsim.torrey_files.load_swc``.
        size: side of the lattice's cubes [mm]; edges are about as long, and the
            thinnest branch needs about two cubes across.
        blend: width of the rounding of corners [mm]; by default a quarter of the
            smallest radius.

    Returns:
        Positions and connectivity: one compartment, one outer marker.

    Raises:
        ValueError: the capsules' ends are wider apart than their mesh can be.

    Source: Labelle & Shewchuk 2007, ACM Trans Graph 26:57.

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_neuron(torrey.example_neuron(depth=1), size=2e-3)
    >>> topology.compartments, topology.outers
    (1, 1)
    """
    shape = Capsules(**{n: v.detach().double() for n, v in vars(capsules).items()})
    least = float(torch.minimum(shape.start_radius, shape.stop_radius).amin())
    if least <= 0 or size <= 0 or size > 2 * least:
        raise ValueError(
            f"mesh_neuron: size must be positive and at most the smallest diameter,"
            f" got {size:.3g} mm for a diameter of {2 * least:.3g} mm; a size of half"
            f" of it resolves it"
        )
    demand_elements("mesh_neuron", 6 * _volume(shape) / size**3)
    width = least / 4 if blend is None else blend
    points, elements = stuff(
        lambda p: neuron_distance(shape, p, width), _cells(shape, size), size
    )
    return make_mesh(points, elements)


def _volume(capsules: Capsules) -> float:
    """Return about the volume of all capsules [mm³]."""
    r = (capsules.start_radius + capsules.stop_radius) / 2
    length = (capsules.stop - capsules.start).norm(dim=-1)
    return float((torch.pi * r**2 * (length + 4 / 3 * r)).sum())


def _cells(capsules: Capsules, size: float) -> Tensor:
    """Return the lattice cubes around all capsules, without looking at empty space."""
    radius = torch.maximum(capsules.start_radius, capsules.stop_radius)
    reach = radius * 1.2 + 2 * size
    length = (capsules.stop - capsules.start).norm(dim=-1)
    block = 8 * size
    found = []
    for a, b, r, s in zip(capsules.start, capsules.stop, reach, length, strict=True):
        t = torch.linspace(0, 1, int(s / block) + 2, dtype=a.dtype)[:, None]
        middle = ((a + t * (b - a)) / block).floor().long()
        n = int((r + block / 2) / block) + 1
        around = torch.cartesian_prod(*[torch.arange(-n, n + 1)] * 3)
        found.append((middle[:, None] + around).reshape(-1, 3))
    blocks = torch.cat(found).unique(dim=0)
    near = neuron_distance(capsules, (blocks.double() + 0.5) * block, size)
    blocks = blocks[near < block + 2 * size]  # half the diagonal is 0.87 block
    cubes = blocks[:, None] * 8 + torch.cartesian_prod(*[torch.arange(8)] * 3)
    cubes = cubes.reshape(-1, 3)
    at = neuron_distance(capsules, (cubes.double() + 0.5) * size, size / 2)
    return cubes[at < 2 * size]


def example_neuron(depth: int = 4, seed: int = 0) -> Capsules:
    """Make a soma with four dendrites that fork again and again.

    Args:
        depth: how often every dendrite forks; at most 8.
        seed: of the directions.

    Returns:
        The capsules: the soma, then 4 (2^(depth + 1) − 1) segments.

    >>> from mrsim import torrey
    >>> torrey.example_neuron(depth=2).start.shape
    torch.Size([29, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    origin = torch.zeros(3, dtype=torch.float64)
    rows = [(origin, origin, 6e-3, 6e-3)]
    tetrahedron = torch.tensor(
        [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64
    )
    tips = [(origin + 4e-3 * d / 3**0.5, d / 3**0.5, 1.8e-3) for d in tetrahedron]
    for level in range(depth + 1):
        grown = []
        for at, way, radius in tips:
            end = at + way * 24e-3 * 0.85**level
            rows.append((at, end, radius, 0.85 * radius))
            turn = torch.randn(3, generator=generator, dtype=torch.float64)
            side = torch.nn.functional.normalize(torch.linalg.cross(way, turn), dim=0)
            forks = (0.82 * way + 0.57 * side, 0.82 * way - 0.57 * side)
            grown += [(end, w / w.norm(), 0.8 * radius) for w in forks]
        tips = grown
    start, stop, thick, thin = zip(*rows, strict=True)
    return Capsules(
        start=torch.stack(start),
        stop=torch.stack(stop),
        start_radius=origin.new_tensor(thick),
        stop_radius=origin.new_tensor(thin),
    )
