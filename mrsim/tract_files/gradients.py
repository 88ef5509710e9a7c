"""Gradient tables: FSL's bvals and bvecs, MRtrix's rows x y z b."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsim.io import InputError
from mrsim.tract import Scheme, axes

_ZERO = 10.0  # s/mm²: what MRtrix takes for b = 0


def load_scheme(
    bvals: str | Path, bvecs: str | Path, affine: Tensor, volumes: int | None = None
) -> Scheme:
    r"""Read b values and directions as FSL writes them, into the scanner frame.

    FSL's directions are along the image's axes, with x turned round where the affine
    has a positive determinant. They are normalised, the lengths left out.

    Args:
        bvals: numbers [s/mm²] in one row or column.
        bvecs: three rows, or three columns.
        affine: (4, 4) of the image that they belong to.
        volumes: how many there must be, if given.

    Returns:
        The scheme, float64.

    Raises:
        InputError: a file is missing, damaged or does not fit.

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from mrsim import tract_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bval, bvec = Path(folder, "dwi.bval"), Path(folder, "dwi.bvec")
    ...     _ = bval.write_text("0 3000\n"), bvec.write_text("0 1\n0 0\n0 0\n")
    ...     tract_files.load_scheme(bval, bvec, torch.eye(4)).directions[1]
    tensor([-1.,  0.,  0.], dtype=torch.float64)
    """
    b = _numbers(bvals).flatten()
    g = _numbers(bvecs)
    if g.shape[0] == 3 and g.shape[1:] != (3,):
        g = g.T
    if g.shape == (3, 3) and len(b) == 3:
        g = g.T  # FSL's three rows
    count = len(b) if volumes is None else volumes
    if g.shape != (len(b), 3) or len(b) != count:
        raise InputError(
            f"{bvals} holds {len(b)} b values and {bvecs} an array of {g.shape};"
            f" {count} values and three numbers for each are expected"
        )
    block = affine[:3, :3].double()
    flip = torch.ones(3, dtype=torch.float64)
    if torch.linalg.cross(block[:, 0], block[:, 1]) @ block[:, 2] > 0:
        flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    u = torch.from_numpy(g) * flip @ axes(affine.double()).mT
    return _scheme(bvals, torch.from_numpy(b), u)


def load_gradients(path: str | Path) -> Scheme:
    r"""Read MRtrix's gradient table: rows x y z b, directions in the scanner frame.

    Args:
        path: the file.

    Returns:
        The scheme, float64.

    Raises:
        InputError: the file is missing or damaged.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mrsim import tract_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "dwi.b")
    ...     _ = path.write_text("0 0 0 0\n0 0 1 3000\n")
    ...     tract_files.load_gradients(path).b
    tensor([   0., 3000.], dtype=torch.float64)
    """
    table = _numbers(path)
    if table.shape[1:] != (4,):
        raise InputError(
            f"{path} must have four columns x y z b, got {table.shape[-1]}; for FSL's"
            f" tables give bvals and bvecs"
        )
    b, g = table[:, 3].copy(), table[:, :3]
    return _scheme(path, torch.from_numpy(b), torch.from_numpy(g))


def load_table(path: str | Path) -> Tensor:
    r"""Read rows of numbers, with blanks or commas between, ``#`` before remarks.

    Args:
        path: the file.

    Returns:
        (row, column) float64.

    Raises:
        InputError: the file is missing or its rows differ in length.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mrsim import tract_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "response.txt")
    ...     _ = path.write_text("# lmax 2\n400, -150\n")
    ...     tract_files.load_table(path)
    tensor([[ 400., -150.]], dtype=torch.float64)
    """
    return torch.from_numpy(_numbers(path))


def _scheme(path: str | Path, b: Tensor, g: Tensor) -> Scheme:
    size = g.norm(dim=-1, keepdim=True)
    there = size.isfinite() & (size > 0)
    bad = ~(b.isfinite() & (b >= 0) & (there[:, 0] | (b <= _ZERO)))
    if bad.any():
        k = int(bad.nonzero()[0, 0])
        raise InputError(
            f"{path}: volume {k} has b = {float(b[k]):g} s/mm² and the direction"
            f" {g[k].tolist()}; b must be finite and not negative, and above"
            f" {_ZERO:g} s/mm² a direction is needed"
        )
    z = torch.tensor([0.0, 0.0, 1.0], dtype=g.dtype)
    return Scheme(b=b, directions=torch.where(there, g / size, z))


def _numbers(path: str | Path) -> np.ndarray:
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; give the path of a table of numbers")
    try:
        text = Path(path).read_text(encoding="utf-8").replace(",", " ")
        rows = [line.split("#")[0].split() for line in text.splitlines()]
        table = np.array([[float(x) for x in row] for row in rows if row])
        return table.reshape(sum(map(bool, rows)), -1)
    except ValueError as e:
        raise InputError(f"{path} must hold rows of equally many numbers: {e}") from e
