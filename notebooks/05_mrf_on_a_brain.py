# %% [markdown]
# # Fingerprinting: design, dictionary and fit on a brain
#
# Magnetic resonance fingerprinting (Ma 2013, Nature 495:187) never lets the
# magnetisation settle: hundreds of pulses of changing angle after an inversion give
# each (T1, T2) a time course of its own, here by the gradient-spoiled sequence of Jiang
# 2015 (MRM 74:1621). Three questions follow, and each has a tool:
#
# 1. *Which flip angles?* The ones of least Cramér-Rao bound (Lee 2019, MRM 82:1438;
#    Zhao 2019, IEEE TMI 38:844): `mrsim.design`.
# 2. *Which tissue made this fingerprint?* The nearest of a dictionary of simulated
#    ones, compressed to a few coefficients (McGivney 2014, IEEE TMI 33:2311):
#    `mrsim.match`.
# 3. *And between the dictionary's atoms?* Least squares through the simulator, with
#    exact derivatives: `mrsim.fit`. Only then does the error reach the bound.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import design, epg, fit, match, noise, phantom, plot
from mrsim.tree import tree_map
from mrsim.units import deg, ms

FAST = bool(os.environ.get("MRSIM_FAST"))
torch.set_default_dtype(torch.float64)  # noqa: TID251
torch.set_num_threads(1)
plt.rcParams.update(plot.STYLE)
generator = torch.Generator().manual_seed(0)

SIGMA = 0.01  # noise of each channel, for M0 = 1 (that of fluid)
N = 200 if FAST else 400  # pulses

# %% [markdown]
# ## The brain, in four tissues
# A slice of MNI152 with literature values at 3 T (as in notebook 03; in fast mode every
# third voxel), summed up by k-means for the design.

# %%
head = phantom.mni152()
step = 3 if FAST else 1
mask = head.mask[::step, ::step, 84]
truth = tree_map(lambda v: v[::step, ::step, 84][mask].double(), head.tissue)
tissues, share = design.tissues(truth, 4)
print(f"{len(truth.T2)} voxels; {len(share)} tissues:")
for T1, T2, w in zip(tissues.T1, tissues.T2, share, strict=True):
    print(f"{w:5.0%}: T1 {T1 / ms:.0f} ms, T2 {T2 / ms:.0f} ms")

# %% [markdown]
# ## A schedule from the bound
# The start is a schedule of sine lobes. Flips are a cubic spline of few coefficients
# (Crafts and Zhao 2021), which keeps schedules smooth and the search small; SLSQP
# follows exact gradients of
# $\sum_\text{tissues} w\,[\mathrm{CRLB}(T_1)/T_1^2 + \mathrm{CRLB}(T_2)/T_2^2]$, with
# M0 unknown. T2 is the harder of the two, so a little of T1's precision is spent on it.

# %%
NAMES = "M0", "T1", "T2"
bound = mrsim.crlb(epg.fisp, *NAMES, sigma=SIGMA)
lobes = (10 + 50 * (torch.pi * torch.arange(N) / (N / 4)).sin().abs()) * deg
start = epg.FISP(flip=lobes, TR=12 * ms, TE=3 * ms, TI=20 * ms)


def cost(tissue: mrsim.Tissue, seq: epg.FISP) -> Tensor:
    """Return var(T1)/T1² + var(T2)/T2² of one tissue."""
    variance = bound(tissue, seq)
    return variance.T1 / tissue.T1**2 + variance.T2 / tissue.T2**2


goal = design.over(cost, tissues, share)


def schedule(knots: epg.FISP) -> epg.FISP:
    """Return the schedule whose flips are a spline of the given coefficients."""
    return mrsim.replace(knots, flip=design.spline(knots.flip, N))


knots = mrsim.replace(start, flip=design.spline_fit(lobes, 12 if FAST else 24))
designed = design.minimise(
    lambda q: goal(schedule(q)),
    knots,
    "flip",
    bounds={"flip": (1 * deg, 70 * deg)},
    iterations=25 if FAST else 200,
    tolerance=1e-4 if FAST else 1e-6,
)
schedules = {"sine lobes": start, "designed": schedule(designed.record)}
costs = {name: float(goal(q)) for name, q in schedules.items()}
gain = costs["designed"] / costs["sine lobes"]
print(f"objective {costs['sine lobes']:.3e} → {costs['designed']:.3e}, × {gain:.3f},")
print(f"after {designed.evaluations} evaluations of value and gradient")

figure, panels = plt.subplots(1, 3, figsize=(22, 5.6), layout="constrained")
colours = {"sine lobes": "0.55", "designed": "C0"}
sds = {}
for name, q in schedules.items():
    panels[0].plot(q.flip / deg, color=colours[name], label=name)
    signal = vmap(epg.fisp, in_dims=(0, None))(tissues, q).abs()
    panels[1].plot(signal[2] / tissues.M0[2], color=colours[name], label=name)
    sds[name] = vmap(bound, in_dims=(0, None))(tissues, q)
panels[0].set(xlabel="pulse", ylabel="flip angle [°]", ylim=(0, 85))
panels[0].set_title("Schedules")
panels[0].legend(ncols=2, loc="upper center")
panels[1].set(xlabel="pulse", ylabel="|signal| / $M_0$", ylim=(0, None))
text = f"T1 {tissues.T1[2] / ms:.0f} ms, T2 {tissues.T2[2] / ms:.0f} ms"
panels[1].set_title(f"Fingerprints: {text}")
place = torch.arange(len(share))
for name, v in sds.items():
    for x, mark in (("T1", "o--"), ("T2", "s-")):
        sd = 100 * getattr(v, x).sqrt() / getattr(tissues, x)
        label = f"{x}, {name}"
        panels[2].plot(place, sd, mark, ms=9, color=colours[name], label=label)
pairs = zip(tissues.T1 / ms, tissues.T2 / ms, strict=True)
panels[2].set_xticks(place, [f"{T1:.0f} / {T2:.0f}" for T1, T2 in pairs])
panels[2].set(xlabel="tissue: T1 / T2 [ms]", ylabel="sd [% of T1, of T2]")
panels[2].set(ylim=(0, 1.1 * panels[2].get_ylim()[1]), xlim=(-0.4, 3.4))
panels[2].legend(ncols=2, loc="lower center")
panels[2].set_title("What the bound promises")
figure.savefig("05_design.png", dpi=90)

# %% [markdown]
# ## A dictionary that is never stored
# Atoms are a rule: index → (T1, T2) → signal. They are simulated, compressed and
# forgotten. `unknowns` asks for a basis that keeps not only the signals but what tells
# T1 and T2 from each other (Mao, Flassbeck and Assländer 2023, arXiv:2305.00326);
# `lost` and `inflation` report what compression costs, in energy and in variance.

# %%
seq = schedules["designed"]
count = 40 if FAST else 100
atoms = match.grid(
    mrsim.Tissue(T1=1.0, T2=0.1),
    keep=lambda t: t.T2 < t.T1,
    T1=torch.logspace(-0.5, 0.7, count),
    T2=torch.logspace(-1.7, 0.0, count),
)
bases = {
    rank: match.subspace(
        epg.fisp, atoms, seq, rank=rank, unknowns=("T1", "T2"), samples=512
    )
    for rank in (3, 5, 8)
}
for rank, basis in bases.items():
    inflation = ", ".join(f"{n} × {x:.3f}" for n, x in basis.inflation.items())
    print(f"rank {rank}: energy lost {basis.lost:.0e}, variance {inflation}")
book = match.dictionary(
    epg.fisp, atoms, seq, rank=8, unknowns=("T1", "T2"), samples=512
)
kept = max(book.inflation.values())
print(f"{atoms.count} atoms of {N} samples as {book.basis.shape[1]} numbers each")

# %% [markdown]
# ## Scan, match, fit
# The slice is simulated with complex noise. `match.match` gives each voxel its nearest
# atom, exactly (the index is that of brute force in double precision); its maps are
# quantised by the grid. `fit.variable_projection` starts there and solves for T1 and T2
# by exact derivatives, M0 and the receiver's phase being the linear unknown (Golub and
# Pereyra 1973, SIAM J Numer Anal 10:413). It brings its covariance along.

# %%
clean = vmap(epg.fisp, in_dims=(0, None))(truth, seq)
unit = torch.randn(*clean.shape, 2, generator=generator)
data = noise.gaussian(clean, unit, SIGMA)

found = match.match(book, data)
matched = mrsim.replace(match.params(atoms, found.index), M0=found.scale.abs())

solve = fit.variable_projection(
    epg.fisp,
    "T1",
    "T2",
    bounds={"T1": (0.05, 10.0), "T2": (0.005, 5.0)},
    tolerance=1e-4,
    sigma=SIGMA,
)
fitted = fit.maps(solve, data, matched, seq)
promised = vmap(bound, in_dims=(0, None))(truth, seq)
told = {n: getattr(promised, n).sqrt() for n in NAMES}


def z(estimate: mrsim.Tissue, name: str) -> Tensor:
    """Return errors of a map in units of the promised standard deviation."""
    return (getattr(estimate, name) - getattr(truth, name)) / told[name]


uncertain = (2 / len(truth.T2)) ** 0.5
squares = {
    (how, n): float(z(maps, n).square().mean())
    for how, maps in (("match", matched), ("fit", fitted.params))
    for n in NAMES
}
for (how, n), square in squares.items():
    print(f"{how:>5}, {n}: squared error {square:.3f} of the bound ± {uncertain:.3f}")
claimed = fitted.covariance.diagonal(dim1=-2, dim2=-1)[:, 1].sqrt()
agreed = float((claimed / told["T2"]).median())
print(f"sd of T2 that the fits claim, over the promised one: median {agreed:.3f}")
print(f"converged: {float(fitted.converged.double().mean()):.2%} of the voxels")

# %%


def plane(values: Tensor) -> Tensor:
    """Put the voxels' values back into the slice, cropped to the brain."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)[box]


box = tuple(
    slice(int(i[0]), int(i[-1]) + 1)
    for i in (mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0])
)
figure, panels = plt.subplots(2, 5, figsize=(26, 10.6), layout="constrained")
figure.get_layout_engine().set(wspace=0.12)
for row, name in zip(panels, ("T1", "T2"), strict=True):
    true, near, best = (getattr(t, name) for t in (truth, matched, fitted.params))
    planes = {
        f"{name}": plane(true),
        f"{name} fitted": plane(best),
        f"{name} error": plane(near - true),
        f"{name} error of fit": plane(best - true),
        f"{name}_sd": plane(told[name]),
    }
    shown = mask[box]
    images = plot.maps(row, planes, shown)
    images[1].set_clim(*images[0].get_clim())
    images[3].set_clim(*images[2].get_clim())
    titles = "truth", "fit", "error of match", "error of fit", "promised sd"
    for panel, title in zip(row, titles, strict=True):
        panel.set_title(title)
figure.savefig("05_maps.png", dpi=70)

figure, panels = plt.subplots(1, 2, figsize=(15, 5.6), layout="constrained")
normal = torch.linspace(-4, 4, 201)
for panel, name in zip(panels, ("T1", "T2"), strict=True):
    for how, maps, colour in (("match", matched, "C1"), ("fit", fitted.params, "C0")):
        style = {"histtype": "step", "density": True, "lw": 2.4, "label": how}
        panel.hist(z(maps, name), torch.linspace(-4, 4, 41), color=colour, **style)
    density = (-normal.square() / 2).exp() / (2 * torch.pi) ** 0.5
    panel.plot(normal, density, "k--", lw=1.5, label="N(0, 1)")
    panel.set(xlabel=f"error of {name} / promised sd", ylabel="density")
    panel.legend()
    panel.set_title(f"{name}: the fit attains the bound")
figure.savefig("05_errors.png", dpi=90)

# %%
assert gain < 0.85
assert designed.violation <= 1e-6
assert book.lost < 5e-3
assert kept < 1.1
assert bases[3].lost > bases[5].lost > bases[8].lost
for n in NAMES:
    assert abs(squares["fit", n] - 1) < 5 * uncertain + 0.02
assert squares["match", "T1"] > 1.1 * squares["fit", "T1"]
assert abs(agreed - 1) < 0.03
assert float(fitted.converged.double().mean()) > 0.99

# %% [markdown]
# **Try next**: the same scan with the sine lobes (how much worse do the maps get?);
# `match.refine`, which moves between atoms by Gauss-Newton steps in the compressed
# space; a dictionary over B1, too, with `match.sobol`, built to disk in shards by
# `match.build`; TR and RF phases as further fields of the design; `prior=` in
# `mrsim.crlb`; and from files, `python -m mrsim design mrf`, `python -m mrsim match`.
