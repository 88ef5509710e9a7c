"""Arrays of other libraries in and out of records, and what records say."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, vmap

import mrsim
from mrsim import Bound, Exchange, Tissue, epg, interop, tree
from mrsim._show import Meaning, meanings, show
from mrsim.units import deg, ms

TWO = Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0, df=-11.0)
RICH = Tissue(T1=1.0, T2=0.1, D=1e-3, exchange=TWO, bound=Bound(f=0.1, k=4.0, T1=1.0))
TRAIN = epg.FSE(flip=[120 * deg] * 4, esp=8 * ms)


def same(a: Any, b: Any) -> bool:
    (x, s), (y, t) = tree.tree_flatten(a), tree.tree_flatten(b)
    return s == t and all(torch.equal(p, q) for p, q in zip(x, y, strict=True))


class TestArraysIn:
    """What a user would hand to a record."""

    def check(self, T2: Any, dtype: torch.dtype) -> None:
        tissue = Tissue(T1=1.0, T2=T2)
        assert tissue.T2.dtype == dtype
        assert tissue.T1.dtype == dtype
        assert torch.equal(tissue.T2, torch.tensor([0.05, 0.1], dtype=dtype))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f8"])
    def test_numpy(self, dtype: Any) -> None:
        wanted = torch.float32 if dtype is np.float32 else torch.float64
        self.check(np.array([0.05, 0.1], dtype=dtype), wanted)

    def test_read_only_numpy_is_copied(self) -> None:
        array = np.array([0.05, 0.1])
        array.setflags(write=False)
        tissue = Tissue(T1=1.0, T2=array)
        assert tissue.T2.data_ptr() != array.ctypes.data

    def test_numpy_scalars_and_lists_of_arrays(self) -> None:
        self.check([np.float64(0.05), 0.1], torch.float64)

    def test_jax(self) -> None:
        jnp = pytest.importorskip("jax.numpy")
        self.check(jnp.array([0.05, 0.1], dtype=jnp.float32), torch.float32)

    def test_xarray(self) -> None:
        xarray = pytest.importorskip("xarray")
        self.check(xarray.DataArray([0.05, 0.1], dims="voxel"), torch.float64)

    def test_pandas(self) -> None:
        pandas = pytest.importorskip("pandas")
        self.check(pandas.Series([0.05, 0.1]), torch.float64)


class TestSignalsOut:
    def test_signal_as_numpy_shares_its_memory(self) -> None:
        signal = epg.fse(Tissue(T1=1.0, T2=0.1), TRAIN)
        array = np.asarray(signal)
        assert array.dtype == np.complex128
        assert array.ctypes.data == signal.data_ptr()

    def test_signal_as_jax_by_dlpack(self) -> None:
        jnp = pytest.importorskip("jax.numpy")
        train = mrsim.to(TRAIN, torch.float32)
        signal = epg.fse(mrsim.to(Tissue(T1=1.0, T2=0.1), torch.float32), train)
        assert np.array_equal(np.asarray(jnp.from_dlpack(signal)), signal.numpy())


class TestNumpy:
    @pytest.mark.parametrize("x", [RICH, TRAIN, TWO], ids=["tissue", "train", "pools"])
    def test_round_trip(self, x: Any) -> None:
        arrays = interop.to_numpy(x)
        assert all(type(v) is np.ndarray for v in arrays.values())
        assert same(interop.from_numpy(type(x), arrays), x)

    def test_round_trip_through_a_file(self) -> None:
        file = io.BytesIO()
        np.savez(file, **interop.to_numpy(RICH))
        file.seek(0)
        with np.load(file) as arrays:
            assert same(interop.from_numpy(Tissue, arrays), RICH)

    def test_structure_is_given_apart(self) -> None:
        program = epg.fse_program(TRAIN)
        arrays = interop.to_numpy(program)
        again = interop.from_numpy(
            epg.Program, arrays, layout=program.layout, clock=program.clock
        )
        assert same(again, program)

    def test_arrays_are_copies_without_a_tape(self) -> None:
        T2 = torch.tensor(0.1, requires_grad=True)
        tissue = Tissue(T1=1.0, T2=T2)
        arrays = interop.to_numpy(tissue)
        arrays["T2"][...] = 7.0
        assert T2.item() == pytest.approx(0.1)

    def test_mistakes_are_named(self) -> None:
        with pytest.raises(TypeError, match="takes a record"):
            interop.to_numpy({"T1": 1.0})
        with pytest.raises(TypeError, match="no field T3"):
            interop.from_numpy(Tissue, {"T1": 1.0, "T2": 0.1, "T3": 1.0})
        with pytest.raises(TypeError, match="T1 holds no record"):
            interop.from_numpy(Tissue, {"T1.k": 1.0, "T2": 0.1})


class TestXarray:
    @pytest.fixture(autouse=True)
    def _needed(self) -> None:
        pytest.importorskip("xarray")

    def test_axes_and_units_come_from_the_comments(self) -> None:
        batch = mrsim.expand(mrsim.replace(TRAIN, phase=torch.zeros(4)), 3)
        made = interop.to_xarray(batch, dims=["train"])
        assert made.flip.dims == ("train", "echo")
        assert made.esp.dims == ("train",)
        assert made.flip.attrs == {"units": "rad"}
        assert made.esp.attrs == {"units": "s"}
        assert made.attrs == {"record": "FSE"}

    def test_fields_without_the_batch_keep_their_own_axes(self) -> None:
        tissue = Tissue(T1=torch.ones(5), T2=0.1)
        made = interop.to_xarray(tissue, dims=["voxel"])
        assert made.T1.dims == ("voxel",)
        assert made.T2.dims == ()

    def test_round_trip(self) -> None:
        batch = mrsim.expand(RICH, 4)
        made = interop.to_xarray(batch, dims=["voxel"])
        assert made["exchange.k"].attrs["units"] == "1/s"
        assert same(interop.from_xarray(Tissue, made), batch)

    def test_another_unit_is_refused(self) -> None:
        made = interop.to_xarray(Tissue(T1=1.0, T2=0.1))
        made.T1.attrs["units"] = "ms"
        with pytest.raises(ValueError, match=r"T1 is in ms, but Tissue\.T1 is in s"):
            interop.from_xarray(Tissue, made)

    def test_axes_without_a_name_are_refused(self) -> None:
        with pytest.raises(ValueError, match="name the batch axes with dims"):
            interop.to_xarray(mrsim.expand(TRAIN, 3))


class TestComments:
    def test_axes_and_units(self) -> None:
        told = meanings(epg.Program)
        assert told["flip"] == Meaning((("event",),), "rad")
        assert told["moment"] == Meaning((("event",), ("event", "3")), "rad/mm")
        assert meanings(Tissue)["exchange"] == Meaning()

    def test_of_fields_that_a_record_inherits(self) -> None:
        assert meanings(epg.FSE)["power"].unit == "rad²/s"

    def test_of_a_class_without_source(self) -> None:
        space: dict[str, Any] = {"record": mrsim.record, "Tensor": Tensor}
        exec("@record\nclass Made:\n    a: Tensor  # () [s]", space)
        assert meanings(space["Made"]) == {}
        assert show(space["Made"](a=1.5)) == "Made(a=1.5)"


class TestShow:
    def test_numbers_shapes_units_and_structure(self) -> None:
        assert show(TRAIN) == "FSE(flip=(4,) float64 [rad], esp=0.008 s)"
        assert show(mrsim.to(TWO, torch.float32)) == (
            "Exchange(T1=0.5 s float32, T2=0.02 s float32, f=0.2 float32,"
            " k=10 1/s float32, df=-11 Hz float32)"
        )
        assert "exchange=Exchange(T1=0.5 s," in show(RICH)
        assert "layout=<8 × Event>" in show(epg.fse_program(TRAIN))
        assert show(Tissue(T1=0, T2=0)) == "Tissue(T1=0, T2=0)"

    def test_derivatives_have_no_units(self) -> None:
        assert show(Tissue(T1=1.0, T2=0.1), units=False) == "Tissue(T1=1, T2=0.1)"

    def test_inside_transforms_and_without_values(self) -> None:
        seen = []

        def f(x: Tissue) -> Tensor:
            seen.append(show(x))
            return x.T1 * x.T2

        x = Tissue(T1=1.0, T2=0.1)
        vmap(f)(mrsim.expand(x, 2))
        jacfwd(f)(x)
        assert seen == ["Tissue(T1=() float64 [s], T2=() float64 [s])"] * 2
        empty = mrsim.to(x, device="meta")
        assert show(empty) == "Tissue(T1=() float64 meta [s], T2=() float64 meta [s])"
