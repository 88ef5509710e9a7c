# %% [markdown]
# # Your own simulator in 30 lines
#
# A simulator is a pure function of records, `signal(params, acquisition)`, for one
# voxel. Nothing has to be registered: derivatives by field name, Cramér-Rao bounds,
# sequence design and fits take any such function. Here it is balanced SSFP after an
# inversion, in the closed form of Schmitt et al. 2004 (Magn Reson Med 51:661), which
# mrsim does not have.

# %%
import os
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import design, epg, fit, plot
from mrsim.units import deg, ms

FAST = bool(os.environ.get("MRSIM_FAST"))
VOXELS = 2000 if FAST else 20_000
torch.set_default_dtype(torch.float64)  # noqa: TID251
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The simulator
# Two records and a function. The comment of a field gives shape, meaning and unit, a
# `neutral` field may be absent, `static` is structure. Between pulses of angle α the
# signal recovers to a steady state with one time constant T1*, from −M0 sin(α/2).


# %%
@mrsim.record
class Water:
    """What is to be measured in a voxel."""

    T1: Tensor  # () longitudinal relaxation time [s]
    T2: Tensor  # () transverse relaxation time [s]
    M0: Tensor | None = mrsim.neutral(1.0)  # () equilibrium [signal units]
    B1: Tensor | None = mrsim.neutral(1.0)  # () transmit field [1]


@mrsim.record
class Recovery:
    """Trains of balanced SSFP pulses, each after an inversion from equilibrium."""

    flip: Tensor  # (train,) of every train's pulses [rad]
    TR: Tensor  # () [s]
    pulses: int = mrsim.static(300)  # of a train


def recovery(water: Water, seq: Recovery) -> Tensor:
    """Return the signal (train, pulse) in the middle between pulses."""
    flip = seq.flip if water.B1 is None else water.B1 * seq.flip
    E1, E2 = (torch.exp(-seq.TR / t) for t in (water.T1, water.T2))
    c, half = flip.cos(), flip / 2
    steady = flip.sin() * (1 - E1) / (1 - (E1 - E2) * c - E1 * E2)
    rate = half.cos() ** 2 / water.T1 + half.sin() ** 2 / water.T2  # 1 / T1*
    n = torch.arange(seq.pulses, device=flip.device).to(flip)
    fading = torch.exp(-(rate * seq.TR)[:, None] * n)
    signal = steady[:, None] - (steady + half.sin())[:, None] * fading
    signal = signal * torch.exp(-seq.TR / (2 * water.T2))
    return signal if water.M0 is None else water.M0 * signal


# %% [markdown]
# ## Is it right?
# The closed form is an approximation for TR ≪ T1, T2. The exact answer is a Program of
# `epg.run`: inversion, half a pulse, then pulses of alternating phase.

# %%
tissue = Water(T1=950 * ms, T2=90 * ms)
first = Recovery(flip=[50 * deg], TR=5 * ms)
events = [
    epg.Event(invert=True),
    epg.Event(pulse=True, quadrant=2),
    *(
        event
        for k in range(first.pulses)
        for event in (epg.Event(pulse=True, quadrant=k % 2 * 2, read=True), epg.Event())
    ),
]
angle, wait = first.flip[0], first.TR / 2
rest = torch.zeros(())
program = epg.Program(
    flip=torch.stack([rest, angle / 2, *[angle, rest] * first.pulses]),
    duration=torch.stack([rest, *[wait] * (2 * first.pulses + 1)]),
    layout=tuple(events),
)
exact = epg.run(mrsim.Tissue(T1=tissue.T1, T2=tissue.T2), program)
alternating = 1.0 - 2.0 * (torch.arange(first.pulses) % 2)
exact = (exact * alternating).imag * exact.imag[-1].sign() * alternating[-1]
closed = recovery(tissue, first)[0]
gap = float((closed - exact).abs().max())
print(f"closed form and extended phase graph differ by {gap:.1e} M0 at most")

# %% [markdown]
# ## It keeps the laws
# The repository's tests hold every simulator to the same laws (one voxel is its slice
# of a vmap, forward = reverse = differences, Hessians, purity, NaN stays in its voxel,
# …). A simulator of one's own joins them as one `Case`.

# %%
folder = Path(globals().get("__file__", ".")).resolve().parents[1] / "tests"
kept = 0
if folder.joinpath("laws.py").exists():
    sys.path.insert(0, str(folder))
    import cases
    import laws

    short = Recovery(flip=[50 * deg, 25 * deg], TR=5 * ms, pulses=7)
    voxel = Water(T1=0.95, T2=0.09, M0=1.2, B1=0.93)
    case = cases.Case("recovery", recovery, (voxel, short))
    for law in laws.LAWS:
        law(case)
    kept = len(laws.LAWS)
    print(f"keeps all {kept} laws")

# %% [markdown]
# ## Derivatives, bound, design
# Two trains are worth most with two flip angles. Which ones? The Cramér-Rao bound for
# three tissues together is differentiable in the angles.

# %%
SIGMA = 0.02
slopes = mrsim.jac(recovery, "T1", "T2")(tissue, first)
tissues = mrsim.expand(tissue, 3)
tissues = mrsim.replace(
    tissues,
    T1=torch.tensor([0.85, 1.4, 2.5]),
    T2=torch.tensor([0.07, 0.1, 0.6]),
)
bound = mrsim.crlb(recovery, "T1", "T2", "M0", sigma=SIGMA)


def cost(seq: Recovery) -> Tensor:
    """Return the mean relative sd of T1 and T2 over the tissues."""
    var = vmap(bound, in_dims=(0, None))(tissues, seq)
    return (var.T1.sqrt() / tissues.T1 + var.T2.sqrt() / tissues.T2).mean() / 2


angles = torch.linspace(10, 120, 23 if FAST else 57) * deg
twice = torch.stack([cost(Recovery(flip=[a, a], TR=5 * ms)) for a in angles])
pairs = torch.stack(torch.meshgrid(angles[::2], angles[::2], indexing="ij"), -1)
table = vmap(lambda a: cost(Recovery(flip=a, TR=torch.tensor(5 * ms))))(
    pairs.reshape(-1, 2)
).reshape(pairs.shape[:2])
start = Recovery(flip=[40 * deg, 70 * deg], TR=5 * ms)
best = design.minimise(cost, start, "flip", bounds={"flip": (5 * deg, 120 * deg)})
flips = best.record.flip
gain = float(twice.min() / cost(best.record))
print(
    f"one angle twice: {twice.min():.2%} at {angles[twice.argmin()] / deg:.0f}°;"
    f" {flips[0] / deg:.0f}° and {flips[1] / deg:.0f}°: {cost(best.record):.2%}"
)

# %% [markdown]
# ## Fits reach the bound

# %%
seq = best.record
voxels = mrsim.expand(tissue, VOXELS)
clean = recovery(tissue, seq)
noise = torch.randn(VOXELS, *clean.shape, generator=generator)
guess = mrsim.expand(Water(T1=0.5, T2=0.05, M0=0.8), VOXELS)
solve = fit.levenberg_marquardt(recovery, "T1", "T2", "M0", sigma=SIGMA)
found = vmap(solve, in_dims=(0, 0, None))(clean + SIGMA * noise, guess, seq)
promised = bound(tissue, seq)
ratio = {
    name: float(getattr(found.params, name).std() / getattr(promised, name).sqrt())
    for name in ("T1", "T2", "M0")
}
inside = (found.params.T2 - tissue.T2).abs() < found.covariance[:, 1, 1].sqrt()
print(
    f"{int(found.converged.sum())} of {VOXELS} fits; sd / bound:",
    ", ".join(f"{name} {value:.3f}" for name, value in ratio.items()),
)
print(f"one-sd intervals of T2 hold the truth in {inside.double().mean():.1%}")

# %%
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams.update(plot.STYLE | {"font.size": 12, "axes.titlesize": 13})
figure, panels = plt.subplots(2, 2, figsize=(12, 8.4), layout="constrained")
panel = panels[0, 0]
time = (torch.arange(first.pulses) + 0.5) * first.TR
panel.plot(time, closed, color="#0060b0", label="30 lines")
panel.plot(time[::15], exact[::15], "o", color="#e08a00", label="extended phase graph")
panel.axhline(0, color="0.85", linewidth=1, zorder=0)
panel.set(xlabel="time [s]", ylabel="signal / M0")
panel.set_title("Inversion, then balanced SSFP")
panel.legend()
panel = panels[0, 1]
panel.plot(time, slopes.T1[0], color="#2f9e44", label="∂S/∂T1")
panel.plot(time, slopes.T2[0] / 10, color="#ae3ec9", label="0.1 ∂S/∂T2")
panel.set(xlabel="time [s]", ylabel="sensitivity / M0 [1/s]")
panel.set_title("Sensitivity, by mrsim.jac")
panel.legend()
panel = panels[1, 0]
edges = (angles[::2] / deg).tolist()
levels = torch.linspace(1, 4, 25)
style = {"cmap": "viridis_r", "extend": "both"}
image = panel.contourf(edges, edges, 100 * table.mT, levels, **style)
panel.plot(edges, edges, "--", color="0.9", linewidth=1)
at_best = {"color": "#e08a00", "markersize": 18, "markeredgecolor": "k"}
panel.plot(*(flips / deg), "*", **at_best)
panel.set(xlabel="flip angle 1 [°]", ylabel="flip angle 2 [°]", ylim=(None, 126))
panel.set_title("Bound of T1 and T2, and its minimum")
figure.colorbar(image, ax=panel, label="mean relative sd [%]", ticks=range(1, 5))
panel = panels[1, 1]
cloud = {"ms": 4, "mew": 0, "color": "0.4", "alpha": 0.3}
panel.plot(found.params.T1 / ms, found.params.T2 / ms, ".", **cloud)
matrix = mrsim.fisher(recovery, "T1", "T2", "M0", sigma=SIGMA)(tissue, seq)
shape = torch.linalg.cholesky_ex(torch.linalg.inv_ex(matrix)[0][:2, :2])[0]
turn = torch.linspace(0, 2 * torch.pi, 200)
for scale in (1, 2, 3):
    ring = scale * shape @ torch.stack([turn.cos(), turn.sin()])
    x, y = (tissue.T1 + ring[0]) / ms, (tissue.T2 + ring[1]) / ms
    panel.plot(x, y, color="#0060b0", linewidth=1.5)
panel.set(xlabel="T1 [ms]", ylabel="T2 [ms]", title=f"{VOXELS} fits and the bound")
figure.savefig("10_your_own_simulator.png", dpi=120)

# %%
assert gap < 5e-3
assert kept in (0, len(laws.LAWS) if kept else 0)
assert gain > 1.05
assert float(cost(best.record)) <= float(table.min()) * (1 + 1e-6)
assert bool(found.converged.all())
assert all(abs(value - 1) < (0.05 if FAST else 0.02) for value in ratio.values())
assert abs(float(inside.double().mean()) - 0.683) < 0.03
