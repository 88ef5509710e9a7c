"""What dictionaries of 1e4 … 1e10 atoms cost: bytes, hours, and matching by groups.

Inversion-recovery FISP over T1 and T2, compressed to rank 10, matched to noisy voxels.
Sizes up to ``--most`` are made and matched; larger ones are computed from the cost of
an atom and of a voxel in the largest measured one (shards of 2**20 atoms are searched
one by one, so cost is linear in their number). Voxels are also tried against every
atom (1e5 of them at most) in single precision, and the indices compared. One thread,
CPU time; prints JSON and a table::

    python tests/bench/bench_dictionary.py --most 1e6
"""

import time
from typing import Any

import torch
from timing import options, report, rounded
from torch import Tensor

from mrsim import Tissue, epg, match
from mrsim.match.groups import groups
from mrsim.units import deg, ms

BRAIN = 1_886_539  # voxels
SHARD = 2**20


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--most", type=float, default=1e5, help="atoms measured")
    parser.add_argument("--pulses", type=int, default=500)
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--voxels", type=int, default=20_000)
    parser.add_argument("--noise", type=float, default=0.02, help="of a voxel's norm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = dictionary(int(args.most), args.pulses, args.rank)
    c, made = timed(lambda: match.coefs(whole, torch.arange(int(args.most))))
    each = made / args.most
    rows = []
    for size in (10**k for k in range(4, 11)):
        if size <= args.most:
            rows.append(measured(whole, c, size, args) | {"generate_s": each * size})
        else:
            rows.append(computed(rows[-1], size, each))
    found = {"checks": checked(whole, c, args), "table": rows}
    report(rounded(found), args.json)
    print("\n".join(line(r) for r in rows))


def dictionary(count: int, pulses: int, rank: int) -> match.Dictionary:
    """The rule for all sizes: a Sobol sequence's first atoms are those of less."""
    t = torch.arange(pulses)
    flip = (10 + 50 * torch.sin(torch.pi * (t % 250) / 250).abs()) * deg
    train = epg.FISP(flip=flip, TR=12 * ms, TE=3 * ms, TI=20 * ms)
    base = Tissue(T1=1.0, T2=0.1)
    ranges = {"T1": (0.3, 5.0), "T2": (0.02, 2.5)}
    atoms = match.sobol(base, count, log=("T1", "T2"), **ranges)
    return match.dictionary(epg.fisp, atoms, train, rank=rank, samples=512)


def voxels(c: Tensor, count: int, noise: float) -> Tensor:
    """Noisy atoms with a complex scale."""
    source = torch.Generator().manual_seed(0)
    true = c[torch.randint(len(c), (count,), generator=source)].to(torch.complex64)
    unit = torch.randn(count, c.shape[1], 2, generator=source)
    sigma = noise * true.abs().square().sum(1, keepdim=True).sqrt() / 20**0.5
    return (true + sigma * torch.view_as_complex(unit)) * (0.6 + 0.8j)


def measured(d: match.Dictionary, c: Tensor, size: int, args: Any) -> dict[str, Any]:
    """Group and match the first atoms."""
    data = voxels(c[:size], args.voxels, args.noise)
    _, sorting = timed(lambda: groups(c[:size]))
    part = d._replace(atoms=d.atoms._replace(count=size))
    stored = part._replace(
        f=lambda tissue, c: c[tissue.T1.long()],
        args=(c,),
        basis=None,
        atoms=match.Atoms(size, lambda k: Tissue(T1=k.double(), T2=k.double())),
    )
    _, spent = timed(lambda: match.match(stored, data, size=SHARD, compressed=True))
    searching = spent - sorting
    return {
        "atoms": size,
        "measured": True,
        "raw_bytes": size * args.pulses * 8,
        "bytes": size * args.rank * 4,
        "sort_s": sorting,
        "voxel_us": 1e6 * max(searching, 1e-9) / args.voxels,
    }


def computed(last: dict[str, Any], size: int, each: float) -> dict[str, Any]:
    """Extrapolate from a smaller dictionary of at least one shard, or towards one."""
    ratio = size / last["atoms"]
    return {
        "atoms": size,
        "measured": False,
        "raw_bytes": round(last["raw_bytes"] * ratio),
        "bytes": round(last["bytes"] * ratio),
        "sort_s": last["sort_s"] * ratio,
        "voxel_us": last["voxel_us"] * ratio,
        "generate_s": each * size,
    }


def checked(d: match.Dictionary, c: Tensor, args: Any) -> dict[str, Any]:
    """Try every atom in single precision, as is usual, and compare."""
    size = min(len(c), 10**5)
    data = voxels(c[:size], 2000, args.noise)
    wide = c[:size].double() / c[:size].double().norm(dim=1, keepdim=True)
    unit = wide.float()

    def all_of_them() -> Tensor:
        rows = data.split(500)
        return torch.cat(
            [
                (r.real @ unit.mT)
                .square_()
                .add_((r.imag @ unit.mT).square_())
                .argmax(1)
                for r in rows
            ]
        )

    naive, spent = timed(all_of_them)
    stored = d._replace(
        f=lambda tissue, c: c[tissue.T1.long()],
        args=(c,),
        basis=None,
        atoms=match.Atoms(size, lambda k: Tissue(T1=k.double(), T2=k.double())),
    )
    found, grouped = timed(lambda: match.match(stored, data, compressed=True).index)
    sure = torch.cat(
        [
            ((r.real @ wide.mT) ** 2 + (r.imag @ wide.mT) ** 2).argmax(1)
            for r in data.to(torch.complex128).split(500)
        ]
    )
    return {
        "atoms": size,
        "trying_all_float32_pairs_per_s": len(data) * size / spent,
        "by_groups_pairs_per_s": len(data) * size / grouped,
        "by_groups_equal_float64": float((found == sure).double().mean()),
        "trying_all_float32_equal_float64": float((naive == sure).double().mean()),
        "energy_lost_in_basis": d.lost,
    }


def timed(f: Any) -> tuple[Any, float]:
    """Run once; CPU seconds."""
    start = time.process_time()
    made = f()
    return made, time.process_time() - start


def line(r: dict[str, Any]) -> str:
    """A row of a table in Markdown."""
    brain = (r["sort_s"] + 1e-6 * r["voxel_us"] * BRAIN) / 3600
    how = "measured" if r["measured"] else "computed"
    return (
        f"| {r['atoms']:.0e} | {r['raw_bytes'] / 1e9:.3g} GB"
        f" | {r['bytes'] / 1e9:.3g} GB"
        f" | {r['generate_s'] / 3600:.3g} h | {brain:.3g} h | {how} |"
    )


if __name__ == "__main__":
    main()
