"""Modes and matrix formalism against SpinDoctor's own functions, run by GNU Octave.

Needs octave-cli and a checkout of SpinDoctor (GPL-3.0, never part of this repository):
``git clone https://github.com/SpinDoctorMRI/SpinDoctor``, then
``python tests/bench/bench_torrey_octave.py FOLDER [--size UM] [--modes N] [--T2 S]``.

SpinDoctor's drivers need MATLAB (string arrays, classes), its numerical functions run:
`evolve_laplace_coef` with its `expmv_cost` and `expmv` is called for each direction and
amplitude, as solve_mf does; the modes are found by Octave's `eigs` as in
compute_laplace_eig. Written here are what Octave lacks: `isa` for a struct, `gather`,
`underlyingType`, and, where the folder has none, Higham's `normAm` by `normest1` and
`theta_taylor.mat` from scipy's table. The matrices are handed over assembled, so the
time of SpinDoctor's assembly does not count, while ours does. Both sides take turns;
CPU time of one thread, medians and minima; prints JSON, ``--json FILE`` keeps it.
"""

import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from scipy.sparse.linalg import _expm_multiply
from timing import options, report, rounded

from mrsim import torrey
from mrsim.torrey.assembly import MS, UM, assemble, dense, diffusion_parts

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
STUBS = {
    "isa.m": """function r = isa(x, name)
if isstruct(x) && isfield(x, "kind"), r = strcmp(x.kind, name);
else, r = builtin("isa", x, name); end
""",
    "gather.m": "function x = gather(x)\n",
    "underlyingType.m": "function name = underlyingType(x)\nname = class(x);\n",
    "normAm.m": """function [c, mv] = normAm(A, m)
c = normest1(A^m); mv = 0;
""",
}
SCRIPT = """
load matrices.mat
start = cputime;
[V, L] = eigs(K, M, modes, -1e-8);
[lambda, order] = sort(diag(L));
V = V(:, order);
V = V ./ sqrt(dot(V, M * V));
A = zeros(modes, modes, 3);
A(:, :, 1) = V' * J1 * V; A(:, :, 2) = V' * J2 * V; A(:, :, 3) = V' * J3 * V;
T = V' * R * V;
eig_time = cputime - start;
nu0 = V' * full(sum(M, 2));
seq = struct("kind", "PGSE", "delta", delta, "Delta", Delta);
LT2 = lambda';
if any(R(:)), LT2 = diag(lambda) + T; end
signals = zeros(numel(q), 1);
start = cputime;
for k = 1:numel(q)
  along = u(k, 1) * A(:, :, 1) + u(k, 2) * A(:, :, 2) + u(k, 3) * A(:, :, 3);
  nu = evolve_laplace_coef(nu0, seq, 1i * q(k) * along, LT2, 500);
  signals(k) = nu0.' * nu / (nu0' * nu0);
end
mf_time = cputime - start;
save("-v7", "made.mat", "signals", "lambda", "eig_time", "mf_time");
"""


def theta_table() -> np.ndarray:
    """Return Al-Mohy and Higham's bounds θ_m, interpolated where scipy has none."""
    known = _expm_multiply._theta
    m = np.arange(1, 56)
    return np.interp(m, sorted(known), [known[k] for k in sorted(known)])


def prepare(work: Path, spindoctor: Path) -> list[str]:
    """Write what Octave lacks; return the names of the functions written."""
    have = {p.name for p in spindoctor.rglob("*") if p.is_file()}
    (work / "stubs").mkdir()
    written = [n for n in STUBS if n not in have]
    for name in written:
        (work / "stubs" / name).write_text(STUBS[name])
    if "theta_taylor.mat" not in have:
        scipy.io.savemat(work / "stubs" / "theta_taylor.mat", {"theta": theta_table()})
        written.append("theta_taylor.mat")
    paths = f'addpath(genpath("{spindoctor}"));\naddpath("{work / "stubs"}");\n'
    (work / "run.m").write_text(
        f'warning("off", "all");\n{paths}cd("{work}");\n{SCRIPT}'
    )
    return written


def hand_over(work: Path, mesh: Any, water: Any, pairs: Any, modes: int) -> None:
    """Save matrices and encodings, in µm and ms."""
    nodes, topology = mesh
    blocks = assemble(nodes, topology, water)
    size = len(topology.home)

    def sparse(parts: Any) -> Any:
        return scipy.sparse.csc_matrix(dense(parts, size).numpy())

    inside = topology.elements
    J = [sparse([(inside, blocks.moment[a])]) for a in range(3)]
    rest = blocks.relaxation
    zero = scipy.sparse.csc_matrix((size, size))
    made = {
        "K": sparse(diffusion_parts(blocks, topology)),
        "M": sparse([(inside, blocks.mass)]),
        "R": zero if rest is None else sparse([(inside, rest)]),
        **{f"J{a + 1}": x for a, x in enumerate(J)},
        "modes": float(modes),
        "delta": float(pairs.delta[0]) * MS,
        "Delta": float(pairs.Delta[0]) * MS,
        "q": pairs.q.numpy() / (UM * MS),
        "u": pairs.direction.numpy(),
    }
    scipy.io.savemat(work / "matrices.mat", made)


def octave(work: Path) -> dict[str, Any]:
    """Run SpinDoctor's side once."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(
        ["octave-cli", "--no-init-file", str(work / "run.m")],
        env=os.environ | one,
        check=True,
        capture_output=True,
    )
    return scipy.io.loadmat(work / "made.mat", squeeze_me=True)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    made = run()
    return time.process_time() - start, made


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("spindoctor", type=Path)
    parser.add_argument("--size", type=float, default=0.9, help="edges [µm]")
    parser.add_argument("--modes", type=int, default=64)
    parser.add_argument("--directions", type=int, default=64)
    parser.add_argument("--T2", type=float, default=None, help="[s]")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    mesh = torrey.mesh_sphere(5e-3, size=given.size * 1e-3)
    T2 = None if given.T2 is None else torch.tensor([given.T2])
    water = torrey.Water(D=torch.tensor([2e-3]), T2=T2)
    pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=1e-2, Delta=4.3e-2)
    b = torch.tensor([500.0, 1000.0, 2000.0, 4000.0])
    pairs = torrey.shells(pair, b, torrey.directions(given.directions))

    def find() -> torrey.Basis:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a cut that completes a group of modes
            return torrey.laplace(*mesh, water, modes=given.modes, method="sparse")

    basis = find()
    modes = len(basis.decay)
    times: dict[str, list[float]] = {
        n: [] for n in ("eig", "mf", "eig_octave", "mf_octave")
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        written = prepare(work, given.spindoctor.resolve())
        hand_over(work, mesh, water, pairs, modes)
        for _ in range(given.rounds):
            theirs = octave(work)
            for other in (1, 2):  # two matrices are remembered: neither is this one's
                moved = torrey.Water(D=water.D * (1 + 1e-9 * other), T2=T2)
                torrey.laplace(*mesh, moved, modes=4, method="sparse")
            spent, basis = timed(find)
            times["eig"].append(spent)
            spent, made = timed(partial(torrey.signals, basis, pairs))
            times["mf"].append(spent)
            times["eig_octave"].append(float(theirs["eig_time"]))
            times["mf_octave"].append(float(theirs["mf_time"]))
    median = {n: statistics.median(t) for n, t in times.items()}
    least = {n: min(t) for n, t in times.items()}
    difference = np.abs(made.numpy() - theirs["signals"]).max()
    found = {
        "dofs": len(mesh[1].home),
        "modes": modes,
        "signals": len(pairs.q),
        "T2": given.T2,
        "seconds": median,
        "least_seconds": least,
        "mf_ratio": median["mf_octave"] / median["mf"],
        "eigen_ratio": median["eig_octave"] / median["eig"],
        "eigen_ratio_of_minima": least["eig_octave"] / least["eig"],
        "largest_difference_of_signals": float(difference),
        "written_for_octave": written,
    }
    report(rounded(found), given.json)


if __name__ == "__main__":
    main()
