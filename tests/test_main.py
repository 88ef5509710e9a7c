import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import mrsim
from mrsim import demo, epg, phantom
from mrsim.__main__ import main, options, parser
from mrsim.demo import brain, measure, trains, trial
from mrsim.units import deg, ms

pytestmark = pytest.mark.xdist_group("main")  # they share what takes long

nib = pytest.importorskip("nibabel")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("tqdm")

AFFINE = np.array(
    [[0, 0, 4.0, -10], [-2.0, 0.2, 0, 20], [0.2, 2.0, 0, -15], [0, 0, 0, 1]]
)
SHAPE = (14, 5, 12)  # the scanner's z runs along the second axis
SMALL = ["--starts", "8", "--steps", "20", "--polish", "1", "--quiet"]
GM, WM = mrsim.Tissue(T1=1.82, T2=0.099), mrsim.Tissue(T1=1.084, T2=0.069)
RMS = 60 * deg


def head(seed=0):
    """Maps of a made-up head: two tissues with some spread, air around."""
    random = np.random.default_rng(seed)
    inside = np.zeros(SHAPE, bool)
    inside[2:-2, 1:-1, 2:-2] = True
    grey = inside & (random.uniform(size=SHAPE) < 0.5)
    spread = random.uniform(0.9, 1.1, SHAPE)
    return {
        "t1": inside * np.where(grey, 1.82, 1.084),
        "t2": inside * np.where(grey, 0.099, 0.069) * spread,
        "m0": inside * np.where(grey, 830.0, 710.0),
        "mask": inside,
    }


def write(folder, affine=AFFINE, **maps):
    """Write maps as NIfTI files and return the command line that names them."""
    words = []
    for name, data in maps.items():
        path = folder / f"sub-07_{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(data, np.float32), affine), path)
        words += [f"--{name}", str(path)]
    return words


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The job on the made-up head: its folder, report and input maps."""
    folder = tmp_path_factory.mktemp("head")
    maps = head()
    words = write(folder, **maps)
    out = folder / "out"
    code = main([*words, *SMALL, "--fits", "3000", "--slice", "2", "--out", str(out)])
    assert code == 0
    return out, json.loads((out / "report.json").read_text()), maps


def test_report_has_its_keys(done):
    _, report, _ = done
    numbers = {
        "variance_ratio_constant",
        "variance_ratio_ramp",
        "measured_ratio_constant",
        "measured_ratio_ramp",
        "gradient_max_rel_error",
        "seconds",
    }
    assert all(isinstance(report[key], float) for key in numbers)
    assert all(math.isfinite(report[key]) for key in numbers)
    assert report["versions"]["mrsim"] == mrsim.__version__
    assert report["input"]["slice"] == 2
    assert report["input"]["slice_axis"] == 1
    assert report["input"]["voxels"] == 80
    assert report["fits_per_train"] == 3000


def test_optimised_train_beats_both_and_the_fits_agree(done):
    _, report, _ = done
    assert report["variance_ratio_constant"] < 0.5
    assert report["variance_ratio_ramp"] < 0.9
    for name in ("constant", "ramp"):
        measured, predicted = (
            report[f"{kind}_ratio_{name}"] for kind in ("measured", "variance")
        )
        error = report[f"measured_ratio_{name}_standard_error"]
        assert error < 0.06 * measured
        assert abs(measured - predicted) < 4 * error
    assert report["gradient_max_rel_error"] < 1e-6


def test_fits_are_unbiased_and_attain_the_bound(done):
    _, report, _ = done
    for train in report["trains"].values():
        assert train["bound_hits"] == 0
        assert train["not_converged"] == 0
        assert abs(train["mean_error_over_crlb_sd"]) < 0.1
        assert train["mean_squared_error_over_crlb"] == pytest.approx(1, abs=0.12)


def test_trains_keep_their_limits(done):
    _, report, _ = done
    for train in report["trains"].values():
        flips = np.array(train["flip_deg"])
        assert len(flips) == 16
        assert flips.min() >= 10 - 1e-3
        assert flips.max() <= 180 + 1e-3
        assert np.sqrt(np.mean(flips**2)) <= 60 + 1e-5
    assert report["trains"]["ramp"]["rms_deg"] == pytest.approx(60, abs=1e-5)


def test_maps_have_bids_names_sidecars_and_the_affine(done):
    out, report, maps = done
    stems = ["sub-07_desc-truth_T2map"] + [
        f"sub-07_acq-{name}_{kind}T2map"
        for name in ("constant", "ramp", "optimised")
        for kind in ("", "desc-sd_")
    ]
    written = {p.name for p in out.glob("*.nii.gz")}
    assert written == {f"{s}.nii.gz" for s in stems}
    assert written < set(report["files"])
    for stem in stems:
        image = nib.load(out / f"{stem}.nii.gz")
        assert np.allclose(image.affine, AFFINE)
        assert image.shape == SHAPE
        filled = image.get_fdata() != 0
        assert filled.sum() == 80
        assert filled[:, 2].sum() == 80
        sidecar = json.loads((out / f"{stem}.json").read_text())
        assert sidecar["Units"] == "s"
        assert sidecar["SoftwareName"] == "mrsim"
    assert np.allclose(sidecar["EchoTime"], 0.008 * np.arange(1, 17))
    assert len(sidecar["RefocusingFlipAngles"]) == 16
    truth = nib.load(out / "sub-07_desc-truth_T2map.nii.gz").get_fdata()[:, 2]
    assert np.allclose(truth, maps["t2"][:, 2], rtol=1e-6)
    fitted = nib.load(out / "sub-07_acq-optimised_T2map.nii.gz").get_fdata()[:, 2]
    sd = nib.load(out / "sub-07_acq-optimised_desc-sd_T2map.nii.gz").get_fdata()[:, 2]
    inside = truth > 0
    z = (fitted - truth)[inside] / sd[inside]
    assert 0.6 < np.mean(z**2) < 1.5


def test_figure_is_written_and_not_blank(done):
    from matplotlib import image

    out, report, _ = done
    pixels = image.imread(out / "report.png")
    assert min(pixels.shape[:2]) > 1000
    assert pixels[..., :3].std() > 0.05
    assert "report.png" in report["files"]


def test_same_seed_same_numbers_other_seed_other_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(trains, "optimised", lambda _, known, *_args, **_more: known)
    files = dict(zip(("t1", "t2"), write(tmp_path, **head())[1:4:2], strict=True))
    small = demo.Options(**files, echoes=8, fits=80, progress=False)
    runs = [demo.compute(small._replace(seed=seed)) for seed in (1, 1, 2)]
    fitted = [run.trials["constant"].fitted for run in runs]
    assert torch.equal(fitted[0], fitted[1])
    assert not torch.isclose(fitted[0], fitted[2]).any()


def test_defaults_are_the_issue_s():
    chosen = options(parser().parse_args([]))
    assert (chosen.echoes, chosen.fits, chosen.sigma) == (16, 30_000, 0.005)
    assert chosen.esp == pytest.approx(8 * ms)
    assert chosen.rms == pytest.approx(60 * deg)
    assert options(parser().parse_args(["--quick"])).fits < chosen.fits
    assert options(parser().parse_args(["--quick", "--fits", "7"])).fits == 7


def refused(capsys, *words):
    """Run a command line that must be refused; return what it says."""
    assert main([*words, *SMALL]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mrsim: ")
    assert said.err.count("\n") == 1
    return said.err


def test_refuses_a_missing_file(tmp_path, capsys):
    words = write(tmp_path, t1=head()["t1"])
    said = refused(capsys, *words, "--t2", str(tmp_path / "none.nii.gz"))
    assert "none.nii.gz does not exist" in said


def test_refuses_half_of_the_maps(tmp_path, capsys):
    said = refused(capsys, *write(tmp_path, t2=head()["t2"]))
    assert "--t1 and --t2 must be given together" in said
    assert "together" in refused(capsys, *write(tmp_path, m0=head()["m0"]))


def test_refuses_milliseconds(tmp_path, capsys):
    maps = head()
    said = refused(capsys, *write(tmp_path, t1=1000 * maps["t1"], t2=maps["t2"]))
    assert "_t1.nii.gz looks like milliseconds" in said
    assert "divide it by 1000" in said


def test_refuses_maps_of_different_shape_or_place(tmp_path, capsys):
    maps = head()
    said = refused(capsys, *write(tmp_path, t1=maps["t1"][:-1], t2=maps["t2"]))
    assert "has shape (13, 5, 12)" in said
    assert "(14, 5, 12)" in said
    words = write(tmp_path, t1=maps["t1"], t2=maps["t2"])
    words += write(tmp_path, affine=np.eye(4), mask=maps["mask"])
    assert "different affines" in refused(capsys, *words)


def test_refuses_an_empty_mask(tmp_path, capsys):
    maps = head()
    words = write(tmp_path, t1=maps["t1"], t2=maps["t2"], mask=0 * maps["mask"])
    assert "the mask is empty" in refused(capsys, *words)


def test_refuses_swapped_maps(tmp_path, capsys):
    maps = head()
    said = refused(capsys, *write(tmp_path, t1=maps["t2"], t2=maps["t1"]))
    assert "swapped" in said


def test_refuses_slices_that_are_not_there_or_empty(tmp_path, capsys):
    maps = head()
    words = write(tmp_path, t1=maps["t1"], t2=maps["t2"])
    assert "must lie in 0 … 4, got 5" in refused(capsys, *words, "--slice", "5")
    said = refused(capsys, *words, "--slice", "0")
    assert "slice 0 has no voxel in the mask; slices 1 … 3 do" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--echoes", "3"], "--echoes must be at least 4"),
        (["--esp-ms", "0"], "--esp-ms must be positive"),
        (["--rms-deg", "200"], "--rms-deg must lie in 20 … 170"),
        (["--sigma", "-1"], "--sigma must be positive"),
        (["--sigma", "nan"], "--sigma must be positive"),
        (["--fits", "0"], "must be positive"),
        (["--threads", "0"], "--threads must be positive"),
        (["--device", "toaster"], "--device toaster is not available"),
    ],
)
def test_refuses_numbers_out_of_range(words, sentence, capsys):
    assert sentence in refused(capsys, *words)


def test_refuses_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    said = refused(capsys, "--out", str(tmp_path / "file" / "out"))
    assert "cannot write to" in said


@pytest.mark.parametrize("module", ["nibabel", "scipy", "matplotlib", "tqdm"])
def test_missing_extra_is_named_before_the_work(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    said = refused(capsys, "--out", str(tmp_path))
    assert f"{module} is needed" in said
    assert 'pip install "mrsim[demo]"' in said


def test_module_runs_and_shows_its_help():
    run = [sys.executable, "-m", "mrsim", "--help"]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "--t2" in said
    assert "[s]" in said


def test_best_ramp_is_the_reference_s(reference):
    file = reference / "design" / "design_problems_fse.json"
    if not file.is_file():
        pytest.skip("no reference data")
    for problem in json.loads(file.read_text())["problems"]:
        if problem["unknown"] != ["M0", "T2", "B1"]:
            continue
        values = problem["params"]
        tissue = mrsim.Tissue(T1=[values["T1"]], T2=[values["T2"]])
        goal = measure.objective(tissue, 1.0)
        rms = problem["constraint"]["rms_flip_max_rad"]
        plain = trains.constant(problem["N"], problem["ESP_s"], rms)
        found = trains.best_ramp(goal, plain, rms)
        ratio = float(goal(found.train) / goal(plain))
        known = problem["best_linear_ramp_baseline"]["variance_ratio_vs_constant"]
        assert known * 0.98 < ratio <= known * (1 + 1e-9)  # more ramps are tried here


def test_ramp_has_its_power_and_shape():
    flips = trains.ramp(16, 130 * deg, 4, RMS)
    assert float(flips.square().mean().sqrt()) == pytest.approx(RMS, rel=1e-12)
    assert float(flips[0]) == pytest.approx(130 * deg)
    steps = flips[:5].diff()
    assert torch.allclose(steps, steps[0].expand(4))
    assert torch.allclose(flips[4:], flips[4].expand(12))
    assert trains.ramp(16, 180 * deg, 15, RMS).isnan().all()


def test_gradient_error_finds_a_wrong_gradient():
    tissue = mrsim.Tissue(T1=[1.0, 1.5], T2=[0.07, 0.1])
    goal = measure.objective(tissue, 0.01)
    train = trains.constant(8, 8 * ms, 100 * deg)
    assert measure.gradient_error(goal, train) < 1e-8

    def half_blind(q):
        hidden = mrsim.replace(q, flip=q.flip.detach())
        return (goal(q) + goal(hidden)) / 2

    assert measure.gradient_error(half_blind, train) > 0.1


def test_point_spread_of_equal_echoes_is_the_dirichlet_kernel():
    spread = measure.point_spread(torch.ones(16), lines=64, zoom=8)
    x = (torch.arange(512) - 256) / 8
    kernel = (torch.sin(torch.pi * x) / torch.sin(torch.pi * x / 64) / 64).abs()
    kernel = torch.where(x == 0, torch.ones_like(x), kernel)
    assert torch.allclose(spread, kernel, atol=1e-12)


def test_signal_and_slope_agree_with_the_simulator():
    tissue = mrsim.Tissue(T1=[1.0, 1.5], T2=[0.07, 0.1], M0=[2.0, 3.0])
    train = trains.constant(6, 10 * ms, 120 * deg)
    signal, slope = measure.signal_and_slope(tissue, train)
    one = mrsim.Tissue(T1=1.5, T2=0.1)
    assert torch.allclose(signal[1], epg.fse(one, train).real)
    assert torch.allclose(slope[1], mrsim.jac(epg.fse, "T2")(one, train).T2.real)


@pytest.mark.parametrize("paired", [0.0, 0.9])
def test_ratio_measures_what_it_predicts_and_knows_its_error(paired, generator):
    truth = torch.linspace(0.06, 0.1, 50)
    bounds = (0.1 * truth) ** 2, (0.2 * truth) ** 2 * torch.linspace(0.5, 2, 50)
    flags = torch.zeros(4000, dtype=torch.bool)
    found = []
    for _ in range(100):
        which = trial.drawn(50, 4000, generator)
        first, second = torch.randn(2, 4000, generator=generator)
        noises = first, paired * first + math.sqrt(1 - paired**2) * second
        both = [
            trial.Trial(b, which, truth[which] + b[which].sqrt() * n, flags, ~flags)
            for b, n in zip(bounds, noises, strict=True)
        ]
        found.append(trial.ratio(*both, truth))
    mean = float((bounds[0] / bounds[1]).mean())
    predicted, measured, error = torch.tensor(found).unbind(1)
    assert torch.allclose(predicted, torch.tensor(mean), rtol=0.05)
    z = (measured - predicted) / error
    assert abs(float(z.mean())) < 0.4
    assert 0.75 < float(z.std()) < 1.25


def test_guess_is_near_the_truth_of_clean_signals():
    tissue = mrsim.Tissue(
        T1=[1.0, 1.2, 1.8],
        T2=[0.07, 0.09, 0.13],
        M0=[0.7, 1.0, 3.0],
        B1=[1.0, 0.9, 1.1],
    )
    train = trains.constant(16, 8 * ms, RMS)
    data = torch.func.vmap(epg.fse, in_dims=(0, None))(tissue, train)
    start = trial.guess(data, tissue.T1, train)
    assert torch.allclose(start.T2, tissue.T2, rtol=0.3)
    assert torch.allclose(start.M0, tissue.M0, rtol=0.3)
    assert torch.equal(start.T1, tissue.T1)


def test_brain_of_maps_ignores_nan_and_scales_m0(tmp_path):
    maps = head()
    maps["t2"][2, 1, 2] = np.nan
    words = write(tmp_path, **maps)
    files = dict(zip(words[::2], words[1::2], strict=True))
    made = brain.from_files(*(files[f"--{n}"] for n in ("t1", "t2", "m0", "mask")))
    assert int(made.mask.sum()) == maps["mask"].sum() - 1
    assert made.name == "07"
    assert float(made.tissue.M0[made.mask].median()) == pytest.approx(1.0)
    assert made.tissue.T2.isfinite().all()
    low, high = brain.halves(made).T2.tolist()
    assert low < float(made.tissue.T2[made.mask].median()) < high


def test_axial_takes_the_fullest_slice_that_is_not_too_large(tmp_path):
    maps = head()
    for index, filled in ((1, 5), (2, 7), (3, 3)):
        maps["mask"][:, index] = False
        maps["mask"][2:-2, index, 2 : 2 + filled] = True
    made = brain.from_files(*write(tmp_path, **maps)[1::2])
    assert len(brain.axial(made, None, most=1000).tissue.T2) == 70
    assert len(brain.axial(made, None, most=69).tissue.T2) == 50
    assert len(brain.axial(made, None, most=29).tissue.T2) == 30


def test_every_voxel_is_fitted_before_any_is_repeated(generator):
    which = trial.drawn(10, 25, generator)
    assert which[:10].tolist() == list(range(10))
    assert len(which) == 25
    assert which.max() < 10
    assert len(trial.drawn(10, 3, generator)) == 10


def test_voxels_whose_t2_is_not_told_are_left_out(tmp_path):
    maps = head()
    maps["t1"][2:4], maps["t2"][2:4] = 4.3 * maps["mask"][2:4], 2 * maps["mask"][2:4]
    cut = brain.axial(brain.from_files(*write(tmp_path, **maps)[1::2]), 2, most=0)
    good = measure.told(cut.tissue, trains.constant(16, 8 * ms, RMS), 0.005)
    assert torch.equal(good, cut.tissue.T2 < 1)
    kept = brain.keep(cut, good)
    assert len(kept.tissue.T2) == int(good.sum()) == int(kept.mask.sum()) == 64
    assert not kept.mask[2:4].any()
    with pytest.raises(
        mrsim.io.InputError, match="has a T2 that these trains can tell"
    ):
        brain.keep(cut, good & False)


def test_axial_and_fill_are_inverse(tmp_path):
    files = write(tmp_path, **head())[1::2]
    made = brain.from_files(*files)
    cut = brain.axial(made, 3, most=0)
    assert cut.tissue.T2.dtype == torch.float64
    volume = brain.fill(cut, cut.tissue.T2.float(), made.mask)
    assert torch.equal(volume[:, 3], made.tissue.T2[:, 3])
    assert volume.sum(1).equal(volume[:, 3])


def test_mask_narrows_the_default_brain(tmp_path):
    if mrsim.io.importlib.util.find_spec("nilearn") is None:
        pytest.skip("nilearn is not installed")
    whole = phantom.mni152()
    mask = torch.zeros_like(whole.mask)
    mask[90:100, 100:110, 80] = True
    words = write(tmp_path, affine=whole.like.affine, mask=mask.numpy())
    made = brain.from_files(None, None, None, words[1])
    assert int(made.mask.sum()) == int((mask & whole.mask).sum()) > 0


@pytest.mark.slow
def test_quick_job_on_the_mni152_brain(tmp_path):
    if mrsim.io.importlib.util.find_spec("nilearn") is None:
        pytest.skip("nilearn is not installed")
    assert main(["--quick", "--quiet", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["input"]["shape"] == [197, 233, 189]
    assert report["variance_ratio_constant"] < 0.32
    assert report["variance_ratio_ramp"] < 0.65
    assert report["disagreement_constant"] < 0.05
    assert report["disagreement_ramp"] < 0.05
    assert report["bound_hits"] == 0
    assert report["gradient_max_rel_error"] < 1e-6
    image = nib.load(tmp_path / "sub-mni152_acq-optimised_T2map.nii.gz")
    assert image.shape == (197, 233, 189)
    assert image.affine[0, 3] == -98
    assert demo.table(report)
