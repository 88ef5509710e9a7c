# %% [markdown]
# # The precision of a T2 map, and its gradient
#
# How well can a spin-echo train measure T2? For independent Gaussian noise of standard
# deviation σ in the real and imaginary channels, no unbiased estimate of parameters θ
# has a covariance below the inverse of the Fisher information (Kay 1993, Fundamentals
# of Statistical Signal Processing I, ch. 3),
#
# $$F_{ij} = \frac1{\sigma^2}\,\mathrm{Re}\sum_n
#   \frac{\partial s_n^*}{\partial\theta_i}\frac{\partial s_n}{\partial\theta_j},
#   \qquad \mathrm{var}\,\theta_i \ge (F^{-1})_{ii}.$$
#
# So the bound needs the signal's derivatives, and to *improve* a train one needs the
# bound's derivatives with respect to each flip angle: a derivative of derivatives. Lee
# 2019 (Magn Reson Med 82:1438) did this by automatic differentiation. The example here
# is that of torchsim's documentation (torchsim grew out of Torch-EPG-X and is now
# blochsim): 96 echoes of 60°, 5 ms apart, T1 = 1000 ms, T2 = 100 ms, T2 unknown. We
# check it against finite differences, and time it.

# %%
import os
import statistics
import time
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.func import grad, vmap

import mrsim
from mrsim import epg, plot
from mrsim.units import deg, ms

FAST = bool(os.environ.get("MRSIM_FAST"))
torch.set_default_dtype(torch.float64)  # noqa: TID251
torch.set_num_threads(1)
plt.rcParams.update(plot.STYLE)

tissue = mrsim.Tissue(T1=1000 * ms, T2=100 * ms)
train = epg.FSE(flip=[60 * deg] * 96, esp=5 * ms)

# %% [markdown]
# ## The signal's derivative
# `mrsim.jac` names the parameters; the result is a `Tissue` of derivatives. Forward
# mode carries the derivative along with the signal, exact to rounding. Finite
# differences have a step, and no good one: too large and the curvature shows, too small
# and rounding does. The example used 1 ms and a one-sided difference.

# %%
NAMES = "T2", "M0", "B1", "T1"
signal, slopes = mrsim.value_and_jac(epg.fse, *NAMES)(tissue, train)
exact = slopes.T2.real


def moved(step: float) -> Tensor:
    """Return the signal where T2 is larger by a step."""
    return epg.fse(mrsim.replace(tissue, T2=tissue.T2 + step), train).real


rules: dict[str, Callable[[float], Tensor]] = {
    "one-sided": lambda h: (moved(h) - moved(0)) / h,
    "central": lambda h: (moved(h) - moved(-h)) / (2 * h),
    "4th order": lambda h: (
        (8 * (moved(h) - moved(-h)) - moved(2 * h) + moved(-2 * h)) / (12 * h)
    ),
}
steps = torch.logspace(-8, -2, 19 if FAST else 49)
errors = {
    name: [float((f(float(h)) - exact).abs().max() / exact.abs().max()) for h in steps]
    for name, f in rules.items()
}
used = float((rules["one-sided"](1 * ms) - exact).abs().max() / exact.abs().max())
for name, e in errors.items():
    print(f"dS/dT2, {name:>9}: {min(e):.0e} at its best step")
print(f"one-sided, with 1 ms: {used:.1e}")

# %%
echo_times = train.esp * torch.arange(1, 97) / ms
figure, panels = plt.subplots(1, 3, figsize=(19, 5.5), layout="constrained")
panels[0].plot(echo_times, signal.real, ".-")
panels[0].set(xlabel="echo time [ms]", ylabel="signal / $M_0$", ylim=(0, None))
panels[0].set_title("96 echoes of 60°")
for name in ("T1", "T2", "B1"):
    scaled = getattr(slopes, name).real * (getattr(tissue, name) or 1)
    panels[1].plot(echo_times, scaled, label=f"θ = {name}")
panels[1].set(xlabel="echo time [ms]", ylabel=r"$\theta\,\partial S/\partial\theta$")
panels[1].set_title("What each echo tells")
panels[1].legend()
for name, e in errors.items():
    panels[2].loglog(steps / ms, e, ".-", label=name)
panels[2].axvline(1, color="0.8", lw=2, zorder=0)
panels[2].text(0.8, 2e-12, "1 ms", color="0.5", ha="right")
panels[2].set(xlabel="step in T2 [ms]", ylabel="relative error of dS/dT2")
panels[2].set_title("Finite differences against autodiff")
panels[2].legend()
figure.savefig("02_signal_and_slopes.png", dpi=100)

# %% [markdown]
# ## The bound
# `mrsim.crlb` makes a function of tissue and train that returns variances, in the
# units of the parameters squared; with T2 alone unknown it is 1/Σ|∂S/∂T2|².
# torchsim and blochsim keep 10 configuration orders by default and arrive at
# 7193.91 ms²; mrsim keeps all orders that reach an echo, unless `states` asks for
# fewer.

# %%
bound = mrsim.crlb(epg.fse, "T2", sigma=1.0)
cost = lambda q: bound(tissue, q).T2 / ms**2  # noqa: E731

all_orders = float(cost(train))
ten_orders = float(cost(mrsim.replace(train, states=10)))
by_hand = 1 / float((exact * ms).square().sum())
print(f"CRLB of T2, all orders: {all_orders:.9f} ms² (1/Σ|dS/dT2|²: {by_hand:.9f})")
print(f"CRLB of T2, 10 orders:  {ten_orders:.9f} ms²")

# %% [markdown]
# With T2 alone unknown, precision looks better than anyone will ever get: the scanner
# does not know M0 either, and flips scale with the transmit field B1. Unknown
# companions can only raise the bound, by how much this train mixes them up with T2.

# %%
information = mrsim.fisher(epg.fse, *NAMES, sigma=0.01)(tissue, train)
sds = {}
for k in range(1, 5):
    variances = torch.linalg.inv_ex(information[:k, :k])[0].diagonal()
    sds[", ".join(NAMES[:k])] = float(variances[0].sqrt() / ms)
for name, sd in sds.items():
    print(f"sd of T2 at 1 % noise, unknown {name:<15}: {sd:.2f} ms")

# %% [markdown]
# ## The bound's gradient
# `grad` of the bound runs reverse mode through forward mode through the train: one call
# returns an `epg.FSE` of derivatives, for each flip and for the echo spacing. Finite
# differences need four bounds for each of 97 numbers; `vmap` takes them at once.

# %%
with epg.use_engine("torch"):  # one gradient does not repay compiling its kernel
    slope = grad(cost)(train)
eye = torch.eye(96)


def differences(h: float) -> Tensor:
    """Return 4th-order central differences of the bound over all flips."""
    shifts = torch.cat([s * h * eye for s in (1, -1, 2, -2)])
    trains = mrsim.replace(mrsim.expand(train, len(shifts)), flip=train.flip + shifts)
    a, b, c, d = vmap(cost)(trains).chunk(4)
    return (8 * (a - b) - c + d) / (12 * h)


numeric = differences(2e-3)
gradient_error = float((slope.flip - numeric).abs().max() / numeric.abs().max())
print(f"gradient over 96 flips against 4th-order differences: {gradient_error:.0e}")
spacing = float(slope.esp * ms)
print(f"per ms of echo spacing the bound changes by {spacing:.0f} ms²")

figure, panels = plt.subplots(
    1, 2, figsize=(16, 5), width_ratios=(2.2, 1), layout="constrained"
)
number = torch.arange(1, 97)
panels[0].bar(number, slope.flip * deg, color="0.75", label="autodiff")
panels[0].plot(number, numeric * deg, "k.", ms=5, label="finite differences")
panels[0].set(xlabel="refocusing pulse", ylabel="∂ var(T2) / ∂ flip [ms²/°]")
panels[0].set_title("Which flips would help T2?")
panels[0].set_yscale("symlog", linthresh=3)
panels[0].legend(loc="lower right")
panels[1].barh(list(sds), list(sds.values()), color="C0")
for k, sd in enumerate(sds.values()):
    panels[1].text(sd, k, f" {sd:.2f}", va="center")
panels[1].set(xlabel="sd of T2 at 1 % noise [ms]", xlim=(0, 1.25 * max(sds.values())))
panels[1].set_title("Unknown are …")
panels[1].invert_yaxis()
figure.savefig("02_bound_and_gradient.png", dpi=100)

# %% [markdown]
# ## What does it cost?
# CPU time of one thread, contenders taking turns, medians. Simulations run in a kernel
# that is compiled once for this machine (`epg.engine_info()` tells);
# `epg.use_engine("torch")` gives the same numbers through plain torch operations.
# Derivatives in forward mode cost about one forward run for each parameter; the
# gradient of the bound a small multiple however many flips there are, which is why
# reverse mode is the right one for sequences.

# %%
info = epg.engine_info()
print(f"engine: {info.path} ({info.why.split(',')[0]})")
SPINS = 200 if FAST else 5000
dtype = torch.float64 if FAST else torch.float32  # FAST: no further kernel to compile
T1, T2 = torch.rand(2, SPINS, generator=torch.Generator().manual_seed(0), dtype=dtype)
many = mrsim.Tissue(T1=0.5 + T1, T2=0.04 + 0.1 * T2)
one = mrsim.expand(mrsim.to(tissue, dtype), 1)
same = mrsim.to(train, dtype)

in_dims = (0, None)
four = mrsim.crlb(epg.fse, *NAMES, sigma=1.0)
jacobian = vmap(mrsim.jac(epg.fse, *NAMES), in_dims)
variances = vmap(lambda t, q: four(t, q).T2, in_dims)
jobs: dict[str, Callable[[mrsim.Tissue], object]] = {
    "signal": lambda t: vmap(epg.fse, in_dims)(t, same),
    "Jacobian: T2, M0, B1, T1": lambda t: jacobian(t, same),
    "CRLB of T2": lambda t: variances(t, same),
    "gradient of its mean": lambda t: grad(lambda q: variances(t, q).mean())(same),
}


def timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return median CPU seconds of contenders that take turns, warmed up."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if k:
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(t) for name, t in spent.items()}


def on(path: str, job: Callable[[mrsim.Tissue], object]) -> Callable[[], object]:
    """Return a run of a job on one of the engine's paths."""

    def run() -> object:
        with epg.use_engine(path):
            return job(many)

    return run


paths = ("fused", "torch") if info.path == "fused" else ("torch",)
runs = {(path, name): on(path, job) for path in paths for name, job in jobs.items()}
seconds = timed(runs, 1 if FAST else 5)
alone = timed({name: lambda j=job: j(one) for name, job in jobs.items()}, 3)
best = seconds[paths[0], "signal"]
print(f"{SPINS} spins, CPU ms (times the signal alone):")
for name in jobs:
    row = [f"{path} {seconds[path, name] / ms:7.1f}" for path in paths]
    row += [f"({seconds[paths[0], name] / best:4.1f} x)"]
    row += [f"1 spin {alone[name] / ms:5.1f}"]
    print(f"{name:>24}:", *row)

figure, panel = plt.subplots(figsize=(13, 5), layout="constrained")
for k, path in enumerate(paths):
    heights = [seconds[path, name] / SPINS * 1e6 for name in jobs]
    place = torch.arange(len(jobs)) + 0.4 * (k - 0.5)
    panel.barh(place, heights, 0.38, color=("C0", "0.7")[k], label=path)
    for y, x in zip(place, heights, strict=True):
        panel.text(1.08 * x, y, f"{x:.3g}" if x < 1000 else f"{x:.0f}", va="center")
panel.set_yticks(range(len(jobs)), list(jobs))
panel.set(xlabel="CPU time for one spin of a batch [µs]", xscale="log")
panel.set_xlim(None, 3 * max(seconds.values()) / SPINS * 1e6)
panel.set_title(f"96 echoes, all orders, {SPINS} spins, one thread")
panel.legend(loc="upper right", title="engine")
panel.invert_yaxis()
figure.savefig("02_timings.png", dpi=100)

# %%
assert abs(all_orders / 7197.580283178991 - 1) < 1e-12
assert abs(ten_orders / 7193.91031715982 - 1) < 1e-12
assert abs(by_hand / all_orders - 1) < 1e-12
assert min(errors["4th order"]) < 1e-10
assert 1e-4 < used < 1e-1
assert gradient_error < 1e-9
assert list(sds.values()) == sorted(sds.values())
differences_cost = 4 * 97 * seconds[paths[0], "CRLB of T2"]
assert seconds[paths[0], "gradient of its mean"] < differences_cost / 20
if len(paths) == 2:
    assert seconds["fused", "signal"] < seconds["torch", "signal"]

# %% [markdown]
# **Try next**: `mrsim.replace(train, states=n)` and `epg.truncation_error` for n from 5
# to 40; flips of 180°, where T1 and B1 leave the signal and the bound says so; the
# bound of T1; `torch.func.hessian` of the cost; and notebook 03, which walks down the
# gradient.
