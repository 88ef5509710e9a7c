"""Neurons as trees of radii: the ``.swc`` files of NeuroMorpho.Org."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.io import InputError
from mrsim.torrey import Capsules, Nodes, Topology, corners
from mrsim.torrey._neuron import capsule_distances
from mrsim.units import um

SOMA, AXON, DENDRITE, APICAL = 1, 2, 3, 4


class Neuron(NamedTuple):
    """A neuron of an ``.swc`` file."""

    capsules: Capsules  # one for each segment, and one ball for each root
    kind: Tensor  # (capsule,) 1 soma, 2 axon, 3 basal and 4 apical dendrite, others


def load_swc(path: str | Path, unit: float = um) -> Neuron:
    r"""Read a neuron.

    A segment joins every sample to its parent, with their radii at its ends. Somata of
    three points (NeuroMorpho.Org's cylinder) become one ball; a dendrite that leaves
    the soma starts with its own radius.

    Args:
        path: the file: number, kind, x, y, z, radius, parent on every line.
        unit: of its lengths; the format says micrometres.

    Returns:
        The capsules, for `mrsim.torrey.mesh_neuron`, and their kinds.

    Raises:
        InputError: the file is missing, a line is no sample, or a parent is unknown.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mrsim import torrey_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "cell.swc")
    ...     _ = path.write_text("1 1 0 0 0 4 -1\n2 3 9 0 0 2 1\n3 3 20 0 0 2 2\n")
    ...     torrey_files.load_swc(path).kind  # soma 1, dendrite 3
    tensor([1, 3, 3])
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of an .swc file")
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = {}
    for k, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            x, y, z, r = map(float, words[2:6])
            n, kind, parent = (int(float(words[i])) for i in (0, 1, 6))
        except (ValueError, IndexError, OverflowError) as e:
            raise InputError(
                f"{path}, line {k}: {line!r} is no sample; it must have number, kind,"
                f" x, y, z, radius and parent"
            ) from e
        if not (r > 0 and all(map(math.isfinite, (x, y, z, r)))):
            raise InputError(
                f"{path}, line {k}: the radius must be positive and finite, and the"
                f" position finite, got {line!r}"
            )
        rows[n] = (kind, (x, y, z), r, parent)
    if not rows:
        raise InputError(f"{path} holds no samples")
    return _assemble(path, rows, unit)


def _assemble(
    path: Path, rows: dict[int, tuple[int, tuple[float, ...], float, int]], unit: float
) -> Neuron:
    ends, kinds = [], []
    for n, (kind, at, r, parent) in rows.items():
        if parent < 0:
            ends.append((at, at, r, r))
            kinds.append(kind)
            continue
        if parent not in rows:
            raise InputError(f"{path}: sample {n} has the unknown parent {parent}")
        up_kind, up, up_r, up_parent = rows[parent]
        if kind == SOMA and up_kind == SOMA and up_parent < 0:
            span = sum((a - b) ** 2 for a, b in zip(at, up, strict=True)) ** 0.5
            if abs(span - up_r) < 0.02 * up_r:
                continue  # the second and third points only say how wide the soma is
        thick = r if up_kind == SOMA and kind != SOMA else up_r
        ends.append((up, at, thick, r))
        kinds.append(kind)
    start, stop, thick, thin = zip(*ends, strict=True)
    capsules = Capsules(
        start=torch.tensor(start, dtype=torch.float64) * unit,
        stop=torch.tensor(stop, dtype=torch.float64) * unit,
        start_radius=torch.tensor(thick, dtype=torch.float64) * unit,
        stop_radius=torch.tensor(thin, dtype=torch.float64) * unit,
    )
    return Neuron(capsules, torch.tensor(kinds))


def label_elements(nodes: Nodes, topology: Topology, neuron: Neuron) -> Tensor:
    r"""Return the kind of the segment in which each element lies deepest.

    Args:
        nodes: positions of a mesh of the neuron [mm].
        topology: connectivity.
        neuron: of `load_swc`.

    Returns:
        (element,) kinds as in the file: soma 1, axon 2, dendrites 3 and 4.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mrsim import torrey, torrey_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "cell.swc")
    ...     _ = path.write_text("1 1 0 0 0 4 -1\n2 3 9 0 0 2 1\n3 3 20 0 0 2 2\n")
    ...     neuron = torrey_files.load_swc(path)
    >>> mesh = torrey.mesh_neuron(neuron.capsules, size=2e-3)
    >>> torrey_files.label_elements(*mesh, neuron).unique()  # soma, dendrite
    tensor([1, 3])
    """
    middle = corners(nodes, topology).detach().mean(1).double()
    parts = [
        capsule_distances(neuron.capsules, p).argmin(-1) for p in middle.split(2**15)
    ]
    return neuron.kind[torch.cat(parts)]
