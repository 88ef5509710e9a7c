"""Streamlines against tracks of MRtrix3's tckgen, vertex by vertex.

Sets are discovered in the folder. The small copy holds some seeds of each; with
MRSIM_REFERENCE on the full data every seed of every set is followed.
"""

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from golden import folder
from torch import Tensor

from mrsim import tract
from mrsim.units import deg

Data = dict[str, np.ndarray]
HOME = folder("tract")
OPTIONS: dict[str, Any] = json.loads((HOME / "options.json").read_text())
NAMES = sorted(n for n in OPTIONS if (HOME / f"{n}.npz").exists())
# share of seeds, tracks and vertices that agree
LEAST = {"SD_STREAM": 0.999, "Tensor_Det": 0.995, "FACT": 0.995}
KINDS = {"SD_STREAM": tract.Field, "Tensor_Det": tract.Signals, "FACT": tract.Vectors}


@cache
def data(name: str) -> Data:
    with np.load(HOME / f"{name}.npz") as file:
        return dict(file)


def single(x: Any) -> Tensor:
    return torch.tensor(np.asarray(x, dtype=np.float32))


def field(name: str, dtype: torch.dtype) -> Any:
    file, key = OPTIONS[name]["input"].split(":")
    held = data(file.removesuffix(".npz"))
    image, affine = (single(held[k]).to(dtype) for k in (key, "affine"))
    if key == "dwi":
        table = torch.tensor(held["grad"]).to(dtype)
        size = table[:, :3].norm(dim=1, keepdim=True)
        directions = table[:, :3] / torch.where(size > 0, size, 1.0)
        scheme = tract.Scheme(b=table[:, 3], directions=directions)
        return tract.Signals(signals=image, scheme=scheme, affine=affine)
    if key == "peaks":
        return tract.Vectors(vectors=image.nan_to_num(), affine=affine)
    return tract.Field(coefficients=image, affine=affine)


def image_region(name: str, dtype: torch.dtype) -> tract.Regions:
    affine = single(data("fod")["affine"]).to(dtype)
    return tract.Regions(
        images=single(data("rois")[name])[None].to(dtype), affine=affine
    )


def options(name: str, image: Any, **changes: Any) -> tract.Options:
    given = OPTIONS[name]
    dtype = image.affine.dtype
    made: dict[str, Any] = {
        "rk4": given["rk4"],
        "unidirectional": given["unidirectional"],
        "stop": given["stop"],
    }
    for key, mine, unit in (
        ("step_mm", "step", 1),
        ("angle_deg", "angle", deg),
        ("cutoff", "cutoff", 1),
        ("minlength_mm", "minlength", 1),
        ("maxlength_mm", "maxlength", 1),
    ):
        if given[key] is not None:
            made[mine] = given[key] * unit
    if given["mask"]:
        made["mask"] = image_region("trackmask", dtype)
    if given["exclude"]:
        made["exclude"] = image_region("exclude", dtype)
    if given["include_sphere"]:
        sphere = single(given["include_sphere"]).to(dtype)
        made["include"] = tract.Regions(centres=sphere[None, :3], radii=sphere[3:])
    return tract.options(image, **(made | changes))


def followed(name: str, dtype: torch.dtype, **changes: Any) -> tract.Tracks:
    image, held = field(name, dtype), data(name)
    position = single(held["seeds"]).to(dtype)
    ways = single(held["init_dir"]).to(dtype) if "init_dir" in held else None
    if ways is not None:
        ways = ways.nan_to_num(nan=1.0)
    seeds = tract.Seed(position=position, direction=ways)
    return tract.tracks(seeds, image, options(name, image, **changes))


def golden(held: Data, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertex numbers and positions that are known of a track."""
    whole = np.nonzero(held["full_track"] == k)[0]
    if len(whole):
        a, b = held["full_offsets"][whole[0] : whole[0] + 2]
        return np.arange(b - a), held["full_points"][a:b]
    if "sub_points" in held:
        a, b = held["sub_offsets"][k : k + 2]
        return held["sub_index"][a:b], held["sub_points"][a:b]
    return np.array([0, held["n_vertices"][k] - 1]), held["ends"][k]


def agreement(name: str, made: tract.Tracks, turned: bool) -> dict[str, float]:
    """Return the shares of equal status, equal counts, and vertices within 0.01 mm."""
    held = data(name)
    wanted, accepted = held["seed_to_track"], made.accepted.numpy()
    offsets, points = made.offsets.numpy(), made.points.double().numpy()
    same, near = [], []
    for i in np.nonzero((wanted >= 0) & accepted)[0]:
        k, mine = wanted[i], points[offsets[i] : offsets[i + 1]]
        index, known = golden(held, k)
        equal = len(mine) == held["n_vertices"][k]
        same.append(equal and (turned or made.seed_index[i] == held["seed_index"][k]))
        if not equal:
            near.append(np.zeros(len(known), dtype=bool))
            continue
        ways = [mine, mine[::-1]] if turned else [mine]
        away = [np.linalg.norm(way[index] - known, axis=1) for way in ways]
        near.append(min(away, key=np.max) < 0.01)
    assert len(same) > 0
    return {
        "status": float(np.mean((wanted >= 0) == accepted)),
        "count": float(np.mean(same)),
        "near": float(np.mean(np.concatenate(near))),
    }


@pytest.mark.parametrize("name", NAMES)
def test_tracks_are_those_of_tckgen(name: str) -> None:
    algorithm = OPTIONS[name]["algorithm"]
    # -seed_direction and eigenvectors leave the sign of a tensor's direction open
    shares = agreement(
        name, followed(name, torch.float32), turned=algorithm == "Tensor_Det"
    )
    print(name, shares)
    assert min(shares.values()) >= LEAST[algorithm], shares


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_gives_the_same_tracks(name: str) -> None:
    if OPTIONS[name]["algorithm"] != "SD_STREAM":
        pytest.skip("the kernel is for FODs")
    shares = agreement(name, followed(name, torch.float32, compiled=True), turned=False)
    print(name, shares)
    assert min(shares.values()) >= LEAST["SD_STREAM"], shares


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("p3")])
def test_double_precision_without_polish_is_tckgen_too(name: str) -> None:
    shares = agreement(name, followed(name, torch.float64, polish=0), turned=False)
    assert min(shares.values()) >= LEAST["SD_STREAM"], shares


@pytest.mark.parametrize("name", NAMES)
def test_options_are_those_of_tckgen(name: str) -> None:
    given = OPTIONS[name]
    made = options(name, field(name, torch.float32))
    assert float(made.step) == pytest.approx(given["effective"]["step_size"], rel=1e-6)
    assert made.angle == pytest.approx(math.radians(given["effective"]["max_angle"]))
    assert made.least == given["min_vertices"]
    assert made.most == given["max_vertices"]


def hausdorff(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Hausdorff distance of two point sets, by their vertices."""
    x, y = (torch.tensor(p, dtype=torch.float64) for p in (a, b))
    d = torch.cdist(x, y)
    return float(torch.maximum(d.amin(1).max(), d.amin(0).max()))


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("p1")])
def test_the_share_within_one_millimetre(name: str) -> None:
    """The measure of the published propagator, which reaches 93 %."""
    held, made = data(name), followed(name, torch.float32)
    close = []
    for i in np.nonzero(held["seed_to_track"] >= 0)[0][:10_000]:
        _, known = golden(held, held["seed_to_track"][i])
        a, b = made.offsets[i : i + 2].tolist()
        mine = made.points[a:b].double().numpy()
        if len(known) < held["n_vertices"][held["seed_to_track"][i]]:
            # thinned: the same vertices of ours, with the ends
            index, _ = golden(held, held["seed_to_track"][i])
            mine = mine[np.minimum(index, len(mine) - 1)]
        close.append(hausdorff(mine, known) < 1.0)
    print(f"{100 * np.mean(close):.3f} % of {len(close)} within 1 mm (Hausdorff)")
    assert np.mean(close) >= 0.999
