import json
import sys

import numpy as np
import pytest
import torch

from mrsim import io

nib = pytest.importorskip("nibabel")

AFFINE = np.array(
    [[-1.9, 0.3, 0, 90], [0.3, 1.9, 0.2, -120], [0, -0.2, 2.5, -70], [0, 0, 0, 1.0]]
)


def written(path, data, affine=AFFINE, **header):
    image = nib.Nifti1Image(np.asarray(data), affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def volume(shape=(4, 5, 6)):
    return np.random.default_rng(0).uniform(0.05, 0.2, shape).astype(np.float32)


def test_load_applies_scaling_and_keeps_the_affine(tmp_path):
    path = tmp_path / "a.nii.gz"
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE)
    image.header.set_slope_inter(0.5, 1.0)
    nib.save(image, path)
    loaded = io.load(path)
    expected = nib.load(path).get_fdata()
    assert np.allclose(loaded.data.numpy(), expected)
    assert np.allclose(loaded.affine, AFFINE)
    assert loaded.path == path


def test_load_takes_a_single_volume_of_a_series(tmp_path):
    loaded = io.load(written(tmp_path / "a.nii.gz", volume((2, 3, 4, 1))))
    assert loaded.data.shape == (2, 3, 4)


def test_save_and_load_are_inverse(tmp_path):
    like = io.load(written(tmp_path / "in.nii.gz", volume()))
    data = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0))
    path = io.save(tmp_path / "out.nii.gz", data, like, {"Units": "s"})
    back = io.load(path)
    assert torch.equal(back.data, data.float())
    assert np.allclose(back.affine, like.affine, atol=1e-6)
    assert json.loads((tmp_path / "out.json").read_text()) == {"Units": "s"}


@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (4, 0), (0, 0)])
def test_save_keeps_codes_and_zooms_and_writes_float32(tmp_path, codes):
    image = nib.Nifti1Image((1000 * volume()).astype(np.int16), AFFINE)
    image.set_qform(np.diag([2.0, 2.0, 2.5, 1.0]), codes[0])
    image.set_sform(AFFINE, codes[1])
    image.header["cal_max"] = 55
    nib.save(image, tmp_path / "in.nii.gz")
    like = io.load(tmp_path / "in.nii.gz")
    out = nib.load(io.save(tmp_path / "out.nii.gz", like.data, like, {}))
    assert np.allclose(out.affine, like.affine, atol=1e-5)
    if codes != (0, 0):
        kept = [int(out.header[f"{form}_code"]) for form in ("qform", "sform")]
        assert kept == list(codes)
    assert np.allclose(out.header.get_zooms(), like.header.get_zooms())
    assert out.get_data_dtype() == np.float32
    assert out.header["cal_max"] == 0


def test_load_time_takes_seconds(tmp_path):
    path = written(tmp_path / "sub-1_T2map.nii.gz", volume())
    (tmp_path / "sub-1_T2map.json").write_text('{"Units": "s"}')
    assert io.load_time(path).data.max() < 0.3


def test_load_time_refuses_milliseconds(tmp_path):
    path = written(tmp_path / "T2map.nii.gz", 1000 * volume())
    with pytest.raises(io.InputError, match=r"milliseconds .*divide it by 1000"):
        io.load_time(path)


def test_load_time_refuses_a_sidecar_that_says_milliseconds(tmp_path):
    path = written(tmp_path / "T2map.nii", volume())
    (tmp_path / "T2map.json").write_text('{"Units": "ms"}')
    with pytest.raises(io.InputError, match="'ms' by its JSON sidecar"):
        io.load_time(path)


def test_load_time_refuses_an_unreadable_sidecar(tmp_path):
    path = written(tmp_path / "T2map.nii", volume())
    (tmp_path / "T2map.json").write_text('{"Units"')
    with pytest.raises(io.InputError, match=r"T2map\.json is no valid JSON"):
        io.load_time(path)


def test_load_time_refuses_an_empty_map(tmp_path):
    path = written(tmp_path / "T2map.nii.gz", np.full((2, 2, 2), np.nan, np.float32))
    with pytest.raises(io.InputError, match="no positive value"):
        io.load_time(path)


def test_load_refuses_what_is_no_volume(tmp_path):
    with pytest.raises(io.InputError, match="does not exist"):
        io.load(tmp_path / "none.nii.gz")
    series = written(tmp_path / "series.nii.gz", volume((2, 2, 2, 3)))
    with pytest.raises(io.InputError, match=r"must be 3-D, got shape \(2, 2, 2, 3\)"):
        io.load(series)
    text = tmp_path / "text.nii.gz"
    text.write_text("not an image")
    with pytest.raises(io.InputError, match="cannot be read"):
        io.load(text)
    whole = written(tmp_path / "whole.nii.gz", volume((30, 30, 30))).read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(io.InputError, match="cannot be read"):
        io.load(cut)


def test_missing_nibabel_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match=r'pip install "mrsim\[demo\]"'):
        io.load(tmp_path / "a.nii.gz")


def test_mni152_is_found_without_importing_nilearn():
    pytest.importorskip("nibabel")
    if io.importlib.util.find_spec("nilearn") is None:
        pytest.skip("nilearn is not installed")
    paths = io.mni152()
    assert "nilearn" not in sys.modules
    assert {n: p.is_file() for n, p in paths.items()} == dict.fromkeys(
        ("t1", "gm", "wm"), True
    )


def test_missing_nilearn_names_the_extra_and_the_other_way(monkeypatch):
    monkeypatch.setattr(io.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r'pip install "mrsim\[demo\]"') as e:
        io.mni152()
    assert "mrsim.io.load_time" in str(e.value)  # for callers from Python
    assert "--t1 and --t2 on the command line" in str(e.value)


def test_nilearn_without_its_brain_is_said(monkeypatch, tmp_path):
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(io.importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(io.InputError, match=r"without .*icbm152.*load_time"):
        io.mni152()
