"""``python -m mrsim fit``: parameter maps of a series, with their uncertainty."""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import fit, io
from mrsim._check import require
from mrsim._command import add_effort, prepare, subcommand, worked
from mrsim.maps_command.files import finish
from mrsim.maps_command.models import MODELS, Model, Protocol
from mrsim.maps_command.options import check, limits, priors
from mrsim.maps_command.protocol import field_map, protocol
from mrsim.maps_command.report import publish
from mrsim.series import Series, load, load_mask, load_volume, voxels
from mrsim.tree import get, put

_CHUNK = 2**15  # voxels
_ABOUT = """\
Fit a signal model in every voxel of a NIfTI series: maps, standard deviations,
residuals, and a report. Timing comes from the options or from BIDS sidecars.

models:
""" + "\n".join(f"  {name:8} {m.about}" for name, m in MODELS.items())
_EXAMPLES = """\
examples:
  python -m mrsim fit sub-01_MESE.nii.gz --model fse --flip-deg 180 --esp-ms 10
  python -m mrsim fit sub-01_flip-*_VFA.nii.gz --model vfa --b1 sub-01_TB1map.nii.gz
  python -m mrsim fit echoes.nii.gz --model t2 --te-ms 12 24 36 48 \\
      --likelihood rician --sigma 14 --bounds T2=0.005,1

An interrupted run goes on where it stopped when the same command is given again.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.
    """
    title = "T1, T2, T2*, B1 maps of a series"
    p = subcommand(subparsers, "fit", run, title, _ABOUT, _EXAMPLES)
    p.add_argument(
        "data", type=Path, nargs="+", help="a 4-D NIfTI file, or several on one grid"
    )
    p.add_argument("--model", choices=[*MODELS], required=True)
    p.add_argument("--out", type=Path, default=Path("mrsim-fit"), help="(mrsim-fit)")
    p.add_argument("--mask", type=Path, metavar="FILE", help="non-zero: fit here")

    q = p.add_argument_group("protocol", "else from the JSON sidecars of the images")
    many: dict[str, Any] = {"type": float, "nargs": "+"}
    q.add_argument("--te-ms", **many, metavar="MS", help="echo times: t2, t2star")
    q.add_argument("--ti-ms", **many, metavar="MS", help="inversion times: ir")
    q.add_argument("--flip-deg", **many, metavar="DEG", help="flips: fse, vfa")
    q.add_argument("--tr-ms", type=float, metavar="MS", help="repetition time: vfa, ir")
    q.add_argument("--esp-ms", type=float, metavar="MS", help="echo spacing: fse")

    k = p.add_argument_group("known beforehand")
    k.add_argument("--b1", type=Path, metavar="FILE", help="transmit field, 1 nominal")
    k.add_argument("--b0", type=Path, metavar="FILE", help="off-resonance [Hz]: fse")
    k.add_argument("--t1", metavar="FILE|S", help="T1 [s], map or number: fse (1)")
    k.add_argument(
        "--bounds", action="append", default=[], metavar="NAME=LOW,HIGH", help="in s, 1"
    )
    k.add_argument(
        "--prior",
        action="append",
        default=[],
        metavar="NAME=MEAN,SD",
        help="normal distribution; log:NAME=MEAN,SD of the logarithm; needs --sigma",
    )
    k.add_argument("--sigma", type=float, help="noise sd [units of the data]")
    k.add_argument("--likelihood", choices=["gaussian", "rician"], default="gaussian")

    e = p.add_argument_group("effort")
    e.add_argument("--starts", type=int, default=1, metavar="N", help="starts (1)")
    e.add_argument("--iterations", type=int, default=50, metavar="N", help="(50)")
    e.add_argument("--double", action="store_true", help="float64 instead of float32")
    add_effort(e, device="the fits")


def run(given: argparse.Namespace) -> int:
    """Fit the series and write maps and report.

    Args:
        given: from the parser.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an input cannot be used.
    """
    model = MODELS[given.model]
    check(given)
    prepare(given)
    dtype = torch.float64 if given.double else torch.float32
    series = load(given.data)
    inside = load_mask(given.mask, series)
    known, model = _known(given, model, series)
    q = protocol(given, model, series.volumes, dtype)
    maps, seconds = worked(_fitted, given, model, series, inside, known, q)
    about = {"Model": given.model, "Likelihood": given.likelihood}
    publish(given, maps, inside, series, model.suffix, about, seconds)
    finish(given.out)
    return 0


def _known(
    given: argparse.Namespace, model: Model, series: Series
) -> tuple[dict[str, Tensor], Model]:
    """Return the known fields, () or (voxel,), and the model without them."""
    known: dict[str, Tensor] = {}
    if given.b1:
        known["B1"] = field_map(load_volume(given.b1, series), given.b1)
    if given.b0:
        known["df"] = load_volume(given.b0, series)
    if given.t1:
        known["T1"] = _number_or_map(given.t1, series)
    for name, option in (("B1", "--b1"), ("df", "--b0"), ("T1", "--t1")):
        taken = {"B1": ("fse", "vfa"), "df": ("fse",), "T1": ("fse",)}[name]
        if name in known and given.model not in taken:
            raise io.InputError(f"{option} is not for --model {given.model}")
    left = tuple(n for n in model.unknown if n not in known)
    suffix = {n: s for n, s in model.suffix.items() if n in (*left, "M0")}
    return known, model._replace(unknown=left, suffix=suffix)


def _number_or_map(text: str, series: Series) -> Tensor:
    try:
        return torch.tensor(float(text))
    except ValueError:
        return load_volume(Path(text), series)


def _fitted(
    given: argparse.Namespace,
    model: Model,
    series: Series,
    inside: Tensor,
    known: dict[str, Tensor],
    q: Protocol,
) -> dict[str, Tensor]:
    """Return name → (voxel,) maps; every finished chunk lies on disk at once."""
    one = _fitter(given, model)
    dtype = next(v for v in vars(q).values() if v is not None).dtype
    q = mrsim.to(q, device=given.device)
    pieces = []
    hidden = {"total": len(inside), "unit": "voxel", "disable": given.quiet}
    with require("tqdm", "demo").tqdm(**hidden) as bar:
        for k, at in enumerate(inside.split(_CHUNK)):
            y = voxels(series, at).to(dtype).to(given.device)
            some = {n: v[at] if v.ndim else v for n, v in known.items()}
            numbers = {n: y.new_tensor(v) for n, v in model.start.items()}
            begin = model.voxel(**numbers | {n: v.to(y) for n, v in some.items()})
            folder = given.out / "parts" / f"{k:06d}"
            found = fit.maps(one, y, begin, q, folder=folder)
            pieces.append(_values(model, y, found, q))
            bar.update(len(at))
    return {n: torch.cat([piece[n] for piece in pieces]) for n in pieces[0]}


def _fitter(given: argparse.Namespace, model: Model) -> Callable[..., fit.Fit]:
    """Return the fit of one voxel: by variable projection, then by the likelihood."""
    box = limits(given.bounds, model)
    how = {"iterations": given.iterations, "tolerance": 1e-4}
    linear = fit.variable_projection(
        model.signal, *model.unknown, bounds=box, sigma=given.sigma, **how
    )
    first = partial(_from_starts, linear, model, given.starts)
    if given.likelihood == "gaussian" and not given.prior:
        return first
    full = fit.levenberg_marquardt(
        model.signal,
        *model.unknown,
        "M0",
        bounds=box | {"M0": (0.0, None)},
        sigma=given.sigma,
        prior=priors(given.prior, model),
        likelihood=given.likelihood,
        **how,
    )
    return lambda y, start, q: full(y, first(y, start, q).params, q)


def _from_starts(
    one: Callable[..., fit.Fit],
    model: Model,
    count: int,
    y: Tensor,
    start: Any,
    q: Protocol,
) -> fit.Fit:
    lists = {n: v[:count] for n, v in model.starts.items()}
    if count == 1:
        return one(y, start, q)
    corners = list(product(*lists.values()))
    many = mrsim.expand(start, len(corners))
    for name, column in zip(lists, zip(*corners, strict=True), strict=True):
        many = put(many, name, get(start, name).new_tensor(column))
    return fit.from_starts(one)(y, many, q)


def _values(model: Model, y: Tensor, found: fit.Fit, q: Protocol) -> dict[str, Tensor]:
    names = (*model.unknown, "M0")
    sds = found.covariance.diagonal(dim1=-2, dim2=-1).sqrt().unbind(-1)
    made = vmap(model.signal, (0, None))(found.params, q)
    out = {n: get(found.params, n) for n in names}
    out |= {f"{n}_sd": sd for n, sd in zip(names, sds, strict=True)}
    out |= {"residual": (y - made).square().mean(-1).sqrt()}
    out |= {"converged": found.converged}
    return {n: v.float().cpu() for n, v in out.items()}
