"""Small meshes in mm and water for them."""

import torch

from mrsim import torrey


def bar(nx: int = 1, ny: int = 1, nz: int = 1, side: float = 4e-3) -> tuple:
    """Return a box of cubes cut into six tetrahedra each (Kuhn), corner at 0."""
    sizes = (nx + 1, ny + 1, nz + 1)
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(float(n)) for n in sizes), indexing="ij"), -1
    )
    number = torch.arange(grid[..., 0].numel()).reshape(sizes)
    paths = [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)]
    cells = []
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                for k_path, path in enumerate(paths):
                    at = [i, j, k]
                    tetra = [int(number[tuple(at)])]
                    for axis in path:
                        at[axis] += 1
                        tetra.append(int(number[tuple(at)]))
                    if k_path > 2:  # odd paths turn the other way
                        tetra[0], tetra[1] = tetra[1], tetra[0]
                    cells.append(tetra)
    return grid.reshape(-1, 3) * side, torch.tensor(cells)


def box(*counts: int, side: float = 4e-3, wobble: float = 0.0) -> tuple:
    """Return nodes and topology of one compartment, with its points moved a little."""
    points, elements = bar(*counts, side=side)
    shift = torch.sin(torch.arange(points.numel() * 1.0) * 7.3).reshape(points.shape)
    return torrey.make_mesh(points + wobble * side * shift, elements)


def pair(n: int = 2, side: float = 4e-3, wobble: float = 0.05) -> tuple:
    """Return nodes and topology of two compartments with a flat interface."""
    points, elements = bar(n, 1, 1, side=side)
    shift = torch.sin(torch.arange(points.numel() * 1.0) * 7.3).reshape(points.shape)
    middle = points[elements].mean(1)[:, 0]
    home = (middle > side * n / 2).long()
    return torrey.make_mesh(points + wobble * side * shift, elements, home)


WATER = torrey.Water(D=2e-3)
TWO = torrey.Water(
    D=[2.1e-3, 1.2e-3],
    T2=[0.04, 0.09],
    rho=[0.7, 1.1],
    kappa=[0.06],
    relaxivity=[0.011, 0.004],
)
TIMES = {"delta": 0.004, "Delta": 0.011}
PAIR = torrey.PGSE(q=2.5e5, direction=[0.6, 0.48, 0.64], **TIMES)
