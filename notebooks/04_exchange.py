# %% [markdown]
# # Water that changes place: two pools, exchange, magnetisation transfer
#
# Real voxels hold several kinds of water. Where it exchanges between them while a
# sequence plays, each pool's Bloch equation gains terms that carry magnetisation over
# (McConnell 1958, J Chem Phys 28:430): for pools a and b,
#
# $$\dot M_a = \dots - k_{ab} M_a + k_{ba} M_b,\qquad
#   \dot M_b = \dots + k_{ab} M_a - k_{ba} M_b,\qquad
#   k_{ab} M_{0a} = k_{ba} M_{0b},$$
#
# the last being detailed balance. In a phase graph the same holds for each order
# (Malik 2018, EPG-X, Magn Reson Med 80:767), so a relaxation step becomes a matrix
# exponential. Torch-EPG-X showed this on PyTorch: signals with and without exchange and
# their run time over the batch size (its Figure 4), derivatives of the signal and of
# its Cramér-Rao bound (Figure 5). Here are the same figures, each checked.

# %%
import math
import os
import statistics
import time
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.func import grad, vmap

import mrsim
from mrsim import bloch, epg, plot
from mrsim.units import deg, ms

FAST = bool(os.environ.get("MRSIM_FAST"))
torch.set_default_dtype(torch.float64)  # noqa: TID251
torch.set_num_threads(1)
plt.rcParams.update(plot.STYLE)

# %% [markdown]
# ## Two pools in a spin-echo train
# The tissue of Figure 4: 80 % with T1 = 1000 ms, T2 = 100 ms, and 20 % with 500 ms and
# 20 ms, as water between myelin layers has. `Exchange` lists the further pools; with
# `directional=False` the rate from i to j is k·f_j, so that k is the sum of the rates
# both ways. Two limits are known: without exchange the signal is the sum of two trains
# weighted by fractions, and with very fast exchange it is that of a single water of
# averaged rates.

# %%
train = epg.FSE(flip=[120 * deg] * 50, esp=5 * ms)
f, slow, quick = 0.2, (1000 * ms, 100 * ms), (500 * ms, 20 * ms)


def voxel(f: float, k: float) -> mrsim.Tissue:
    """Return the two pools of Figure 4 with a fraction and a rate."""
    other = mrsim.Exchange(T1=quick[0], T2=quick[1], f=f, k=k, directional=False)
    return mrsim.Tissue(T1=slow[0], T2=slow[1], exchange=other)


def single(T1: float, T2: float) -> Tensor:
    """Return the train's signal of one pool."""
    return epg.fse(mrsim.Tissue(T1=T1, T2=T2), train).real


rates = (0.0, 10.0, 50.0, 250.0, 1e6)
signals = {k: epg.fse(voxel(f, k), train).real for k in rates}
apart = (1 - f) * single(*slow) + f * single(*quick)
mixed = [1 / ((1 - f) / a + f / b) for a, b in zip(slow, quick, strict=True)]
averaged = single(*mixed)
twin = bloch.run(voxel(f, 10.0), epg.fse_program(train)).real

slow_error = float((signals[0.0] - apart).abs().max())
fast_error = float((signals[1e6] - averaged).abs().max())
twin_error = float((signals[10.0] - twin).abs().max())
print(f"no exchange against a sum of two trains: {slow_error:.0e}")
print(f"k = 1e6/s against one pool of averaged rates: {fast_error:.0e}")
print(f"k = 10/s, phase graph against {2 * 100 + 1} isochromats: {twin_error:.0e}")

# %% [markdown]
# ## Magnetisation transfer in a fingerprint
# Protons of membranes and proteins (T2 about 10 µs) give no signal, but pulses saturate
# them and they exchange with water: a `Bound` pool, whose saturation follows from the
# pulses' power ∫(γB1)²dt and the super-Lorentzian line at their offset (Graham and
# Henkelman 1997, JMRI 7:903; Morrison 1995, J Magn Reson B 108:103). In an
# inversion-recovery FISP train (Jiang 2015, MRM 74:1621) of 1 ms pulses it makes the
# water recover faster and then stay lower, which a dictionary of one pool takes for
# other relaxation times.

# %%
N = 200 if FAST else 500
pulse = torch.arange(N)
flip = (5 + 55 * (torch.pi * pulse / 200).sin().abs()) * deg
power = flip.square() / (1 * ms)  # (γB1)²τ of a rectangle of τ = 1 ms
bare = epg.FISP(flip=flip, TR=12 * ms, TE=3 * ms, TI=20 * ms)
pulsed = mrsim.replace(bare, power=power, offset=torch.tensor(0.0))
weak = mrsim.replace(pulsed, power=0 * power)
solid = mrsim.Bound(f=0.12, k=4.3, T1=1.0, T2=10e-6)
white = mrsim.Tissue(T1=1084 * ms, T2=69 * ms)
bound = mrsim.replace(white, bound=solid)
fingerprints = {
    "one pool": epg.fisp(white, bare).abs(),
    "bound pool, exchange alone": epg.fisp(bound, weak).abs(),
    "bound pool, saturated": epg.fisp(bound, pulsed).abs(),
}
mt_twin = bloch.run(bound, epg.fisp_program(pulsed)).abs()
mt_error = float((fingerprints["bound pool, saturated"] - mt_twin).abs().max())
print(f"{N} pulses with MT, phase graph against isochromats: {mt_error:.0e}")

figure, panels = plt.subplots(1, 2, figsize=(18, 6), layout="constrained")
times = train.esp / ms * torch.arange(1, 51)
colours = plt.cm.viridis(torch.linspace(0, 0.9, len(rates)))
for (k, s), colour in zip(signals.items(), colours, strict=True):
    name = {0.0: "none", 1e6: "very fast"}.get(k, f"{k:.0f}/s")
    panels[0].plot(times, s, color=colour, label=name)
for limit, name in ((apart, "sum of two trains"), (averaged, "averaged rates")):
    mark = "o" if limit is apart else "s"
    panels[0].plot(times[::3], limit[::3], "k" + mark, ms=5, mfc="none", label=name)
panels[0].set(xlabel="echo time [ms]", ylabel="signal / $M_0$", ylim=(0, None))
panels[0].set_title("Two pools: 50 echoes of 120°")
panels[0].legend(title="exchange", ncols=2)
for (name, s), colour in zip(fingerprints.items(), ("0.6", "C0", "C3"), strict=True):
    panels[1].plot(pulse + 1, s, color=colour, label=name)
panels[1].set(xlabel="pulse", ylabel="|signal| / $M_0$", ylim=(0, None))
panels[1].set_title("Magnetisation transfer: an IR-FISP fingerprint")
panels[1].legend()
figure.savefig("04_signals.png", dpi=90)

# %% [markdown]
# ## Derivatives with respect to fraction and rate
# `mrsim.jac` reaches into nested records by dotted names. Matrix exponentials are
# differentiated, too, also where eigenvalues meet. Below, beside 4th-order central
# differences.

# %%
tissue = voxel(f, 10.0)
NAMES = "exchange.f", "exchange.k", "M0"
exact = mrsim.jac(epg.fse, *NAMES)(tissue, train).exchange
steps = {"f": 1e-3, "k": 0.1}


def at(name: str, move: float) -> Tensor:
    """Return the signal where one of f and k is moved."""
    values = {"f": f, "k": 10.0}
    return epg.fse(voxel(**{**values, name: values[name] + move}), train).real


numeric = {
    name: (8 * (at(name, h) - at(name, -h)) - at(name, 2 * h) + at(name, -2 * h))
    / (12 * h)
    for name, h in steps.items()
}
slopes = {"f": exact.f.real, "k": exact.k.real}
errors = {
    name: float((slopes[name] - y).abs().max() / y.abs().max())
    for name, y in numeric.items()
}
for name, e in errors.items():
    print(f"dS/d{name} against finite differences: {e:.0e}")

# %% [markdown]
# ## Can this train measure exchange?
# A derivative that exists is not yet a parameter that can be measured. With M0, f and k
# unknown (and all relaxation times known), the Cramér-Rao bound says how well, and its
# gradient with respect to the 50 flips, third derivatives in all, is as good as the
# others.

# %%
SIGMA = 0.005
limit = mrsim.crlb(epg.fse, *NAMES, sigma=SIGMA)
sweep = torch.logspace(0, 3, 13 if FAST else 31)
many = mrsim.expand(tissue, len(sweep))
many = mrsim.replace(many, exchange=mrsim.replace(many.exchange, k=sweep))
found = vmap(limit, in_dims=(0, None))(many, train).exchange
sd_f, sd_k = found.f.sqrt() / f, found.k.sqrt() / sweep


def cost(q: epg.FSE) -> Tensor:
    """Return the bound of the rate over its square."""
    return limit(tissue, q).exchange.k / 10.0**2


with epg.use_engine("torch"):  # one gradient does not repay compiling its kernel
    slope = grad(cost)(train).flip
turn = torch.randn(50, generator=torch.Generator().manual_seed(0))


def along(h: float) -> Tensor:
    """Return the bound for flips moved along a random direction."""
    return cost(mrsim.replace(train, flip=train.flip + h * turn))


h = 1e-3
straight = (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)
bound_error = abs(float(slope @ turn / straight) - 1)
print(f"gradient of the bound over 50 flips, along a direction: {bound_error:.0e}")
print(f"sd at k = 10/s and {SIGMA:.1%} noise: f", end=" ")
print(f"{float(limit(tissue, train).exchange.f.sqrt()) / f:.1%},", end=" ")
print(f"k {float(cost(train)) ** 0.5:.0%}; best k {float(sd_k.min()):.0%}", end=" ")
print(f"at {float(sweep[sd_k.argmin()]):.0f}/s")

figure, panels = plt.subplots(1, 3, figsize=(21, 5.8), layout="constrained")
for panel, (name, unit) in zip(panels, (("f", "1"), ("k", "s")), strict=False):
    panel.plot(times, slopes[name], label="autodiff")
    panel.plot(times, numeric[name], "k.", label="finite differences")
    panel.axhline(0, color="0.85", lw=1, zorder=0)
    panel.set(xlabel="echo time [ms]", ylabel=f"∂S/∂{name} [{unit}]")
    panel.set_title(f"Slope over the {'fraction' if name == 'f' else 'rate'}")
    panel.legend()
panels[2].loglog(sweep, 100 * sd_f, "o-", label="f")
panels[2].loglog(sweep, 100 * sd_k, "o-", label="k")
panels[2].set(xlabel="exchange rate k [1/s]", ylabel="sd of f, of k [%]")
panels[2].set_title(f"What {100 * SIGMA:.1f} % noise leaves")
panels[2].legend()
figure.savefig("04_derivatives.png", dpi=90)

# %% [markdown]
# ## Speed over the batch size
# CPU time of one thread; one call of `vmap(epg.fse)` for all spins, all orders kept.
# Small batches pay for Python, large ones for arithmetic. A pool more costs a bit more
# than twice the work, since orders of both pools and both components mix.

# %%
dtype = torch.float64 if FAST else torch.float32  # FAST: no further kernel to compile
sizes = (1, 10, 100, 1000) if FAST else (1, 10, 100, 1000, 10_000, 100_000)
played = mrsim.to(train, dtype)
run = vmap(epg.fse, in_dims=(0, None))
kinds = {
    "one pool": mrsim.to(mrsim.Tissue(T1=slow[0], T2=slow[1]), dtype),
    "two pools, exchange": mrsim.to(tissue, dtype),
}


def job(kind: mrsim.Tissue, size: int) -> Callable[[], Tensor]:
    """Return a run of a batch whose T2 varies."""
    T2 = torch.linspace(0.05, 0.15, size, dtype=dtype)
    batch = mrsim.replace(mrsim.expand(kind, size), T2=T2)
    return lambda: run(batch, played)


def seconds(runs: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Return median CPU seconds of contenders that take turns, warmed up."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(rounds + 1):
        for name, one in runs.items():
            start = time.process_time()
            one()
            if k:
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(t) for name, t in spent.items()}


speed: dict[str, list[float]] = {name: [] for name in kinds}
for size in sizes:
    turns = {name: job(kind, size) for name, kind in kinds.items()}
    for name, spent in seconds(turns, 3 if FAST else 7).items():
        speed[name].append(size / spent)
paths = {n: epg.engine_info(v, epg.fse_program(played)).path for n, v in kinds.items()}
for name, values in speed.items():
    row = ", ".join(f"{v:.3g}" for v in values)
    print(f"{name} ({paths[name]}): {row} spins per CPU-s")
ratio = speed["one pool"][-1] / speed["two pools, exchange"][-1]
print(f"exchange costs {ratio:.1f} times one pool at {sizes[-1]} spins")

figure, panel = plt.subplots(figsize=(11, 6), layout="constrained")
for name, values in speed.items():
    panel.loglog(sizes, values, "o-", label=name)
panel.set(xlabel="spins in a batch", ylabel="spins per CPU second")
panel.set_title("50 echoes, every order, one thread")
panel.legend()
figure.savefig("04_speed.png", dpi=90)

# %%
assert slow_error < 1e-13
assert fast_error < 1e-4
assert twin_error < 1e-12
assert mt_error < 1e-12
assert fingerprints["one pool"].sub(mt_twin).abs().max() > 0.02
assert max(errors.values()) < 1e-8
assert bound_error < 1e-6
assert math.isfinite(float(cost(train)))
assert float(sd_f[0]) < float(sd_k[0])
assert speed["one pool"][-1] > 20 * speed["one pool"][0]
assert 1 < ratio < 25

# %% [markdown]
# **Try next**: three pools (`Exchange` with tensors of two entries, `pairs=` for who
# exchanges with whom); a chemical shift `df` of the second pool; dipolar order
# (`Bound(T1D=...)`, ihMT); `mrsim.design` on the bound of k, as notebook 03 does for
# T2; and `tests/bench/bench_engine.py`, which takes turns with other packages.
