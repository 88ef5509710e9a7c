"""Speed of the FSE simulator, as ratios of CPU times measured in one run.

One thread, float32, 96 echoes, every contender interleaved, medians; prints JSON.
Run it with ``python tests/bench/bench_fse.py``; the extra ``bench`` brings blochsim,
without which its rows are left out.
"""

from collections.abc import Callable
from typing import Any

import torch
from peers import Task, contenders
from timing import interleaved, options, report, rounded
from torch import Tensor
from torch.func import grad, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.units import ms

ECHOES = 96


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--spins", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train = epg.FSE(flip=torch.rand(ECHOES) * 2 + 1, esp=5 * ms)
    times = interleaved(_contenders(train, args.spins), args.rounds, 1e9)
    one = interleaved(_one_spin(train), 5 * args.rounds, 1e9)
    report(rounded(_report(times, one, args.spins)), args.json)


def _contenders(train: epg.FSE, count: int) -> dict[str, Callable[[], Any]]:
    tissue = _tissue(count)
    few = mrsim.tree.tree_map(lambda x: x[:_FEW], tissue)
    fse = vmap(epg.fse, in_dims=(0, None))
    jacobian = vmap(mrsim.jac(epg.fse, "T1", "T2", "B1"), in_dims=(0, None))

    def power(seq: epg.FSE) -> Tensor:
        return fse(tissue, seq).abs().sum()

    made = {
        "forward": lambda: fse(tissue, train),
        "jac_T1_T2_B1": lambda: jacobian(tissue, train),
        "grad_flips": lambda: grad(power)(train),
        "naive": lambda: vmap(_naive, in_dims=(0, None, None))(
            few, train.flip, train.esp
        ),
    }
    task = Task("fse", train.flip, 5e-3, tissue.T1, tissue.T2, tissue.B1)
    peers, _ = contenders(task, ("blochsim", "blochsim as shipped"))
    return made | {f"{name}, 10 states": run for name, run in peers.items()}


def _one_spin(train: epg.FSE) -> dict[str, Callable[[], Any]]:
    tissue = Tissue(T1=1.0, T2=100 * ms)
    return {
        "forward": lambda: epg.fse(tissue, train),
        "jac_T2": lambda: mrsim.jac(epg.fse, "T2")(tissue, train),
    }


_FEW = 200


def _tissue(count: int) -> Tissue:
    return Tissue(
        T1=torch.rand(count) + 0.5,
        T2=torch.rand(count) * 0.1 + 0.03,
        B1=torch.rand(count) * 0.2 + 0.9,
    )


def _naive(tissue: Tissue, flip: Tensor, esp: Tensor) -> Tensor:
    """Textbook complex EPG of one spin: 3 x 3 rotations of all orders, two shifts."""
    count = ECHOES + 2
    E1, E2 = torch.exp(-esp / 2 / tissue.T1), torch.exp(-esp / 2 / tissue.T2)
    decay = torch.stack([E2, E2, E1]).to(torch.complex64)[:, None]
    zero = torch.zeros_like(esp).to(torch.complex64).expand(count)
    first = torch.nn.functional.one_hot(torch.tensor(0), count).to(torch.complex64)
    state = torch.stack([zero, zero, first * (1 + 0 * E1)])
    state = _rotation(tissue.B1 * torch.pi / 2, torch.pi / 2) @ state
    echoes = []
    for n in range(ECHOES):
        state = _dephase(decay * state)
        state = _rotation(tissue.B1 * flip[n], 0.0) @ state
        state = _dephase(decay * state)
        echoes.append(state[0, 0])
    return torch.stack(echoes)


def _rotation(flip: Tensor, phase: float) -> Tensor:
    c, s = torch.cos(flip), torch.sin(flip)
    turn = torch.exp(torch.tensor(1j * phase))
    p, m = (1 + c) / 2 + 0j, (1 - c) / 2 + 0j
    rows = [
        torch.stack([p, turn**2 * m, -1j * turn * s]),
        torch.stack([turn.conj() ** 2 * m, p, 1j * turn.conj() * s]),
        torch.stack([-0.5j * turn.conj() * s, 0.5j * turn * s, c + 0j]),
    ]
    return torch.stack(rows)


def _dephase(state: Tensor) -> Tensor:
    F, Q, Z = state
    edge = torch.zeros_like(Q[:1])
    return torch.stack(
        [torch.cat([Q[1:2].conj(), F[:-1]]), torch.cat([Q[1:], edge]), Z]
    )


def _report(
    times: dict[str, float], one: dict[str, float], count: int
) -> dict[str, Any]:
    forward = times["forward"]
    found = {
        "echoes": ECHOES,
        "spins": count,
        "forward_spins_per_cpu_s": round(count / forward),
        "naive_vmap_over_forward": times["naive"] / _FEW * count / forward,
        "jac_T1_T2_B1_over_forward": times["jac_T1_T2_B1"] / forward,
        "grad_96_flips_over_forward": times["grad_flips"] / forward,
        "one_spin_forward_ms": 1e3 * one["forward"],
        "one_spin_jac_T2_over_forward": one["jac_T2"] / one["forward"],
    }
    peers = {n: t for n, t in times.items() if n.startswith("blochsim")}
    return found | {f"{n} / forward": t / forward for n, t in peers.items()}


if __name__ == "__main__":
    main()
