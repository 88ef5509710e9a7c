"""What a record's constructor makes of numbers, lists and arrays."""

from typing import Any

import numpy as np
import pytest
import torch
from record_models import Model, Pool, model
from torch import Tensor
from torch.func import grad, jacfwd, vmap

import mrsim
from mrsim import Tissue, tree


class _Foreign:
    """An array of another library, on a device that numpy cannot read."""

    def __init__(self, data: Tensor) -> None:
        self._data = data

    def __array__(self) -> Any:
        raise TypeError("implicit conversion to a numpy array is not allowed")

    def __dlpack__(self, **options: Any) -> Any:
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()


class TestConversion:
    def test_floats_take_the_default_dtype(self) -> None:
        x = Tissue(T1=1.0, T2=0.1)
        assert x.T1.dtype == x.T2.dtype == torch.float64
        assert x.T1.shape == ()

    def test_floats_adopt_the_first_floating_tensor(self) -> None:
        x = Tissue(T1=1.0, T2=torch.tensor(0.1, dtype=torch.float32), M0=[1.0, 2.0])
        assert {v.dtype for v in tree.tree_leaves(x)} == {torch.float32}

    def test_integer_tensors_do_not_set_the_dtype(self) -> None:
        x = Model(flip=[1.0], offset=torch.tensor([1, 2]))
        assert x.flip.dtype == torch.float64
        assert x.offset is not None
        assert x.offset.dtype == torch.int64

    def test_floats_adopt_the_device(self) -> None:
        x = Tissue(T1=torch.ones((), device="meta"), T2=0.1, M0=np.ones(2))
        assert {v.device.type for v in tree.tree_leaves(x)} == {"meta"}

    def test_lists_of_numbers_become_floats(self) -> None:
        assert Model(flip=[0, 1, 2]).flip.dtype == torch.float64
        assert Model(flip=((1, 2), (3, 4))).flip.shape == (2, 2)
        assert Model(flip=[]).flip.shape == (0,)

    def test_lists_of_tensors_keep_their_graph(self) -> None:
        a = torch.tensor(2.0, requires_grad=True)
        x = Model(flip=[[a, 1.0], [0.5, a * 3]])
        assert x.flip.shape == (2, 2)
        (g,) = torch.autograd.grad(x.flip.sum(), a)
        assert g == 4.0

    def test_lists_of_tensors_set_the_dtype(self) -> None:
        half = torch.tensor(1.0, dtype=torch.float32)
        x = model(flip=[half, 2.0], phase=[0.1, 0.2])
        assert x.flip.dtype == torch.float32
        assert x.phase is not None
        assert x.phase.dtype == torch.float32

    @pytest.mark.parametrize("dtype", ["float32", "float64", "int16", ">f4", ">f8"])
    def test_arrays_keep_their_values(self, dtype: str) -> None:
        a = np.arange(6).astype(dtype)
        x = Model(flip=a)
        assert (
            x.flip.dtype == torch.as_tensor(a.astype(a.dtype.newbyteorder("="))).dtype
        )
        assert x.flip.tolist() == a.tolist()

    def test_arrays_are_copied_and_may_be_read_only_reversed_or_nested(self) -> None:
        a = np.arange(4.0)
        x = Model(flip=a[::-1])
        a[0] = 9
        assert x.flip.tolist() == [3, 2, 1, 0]
        a.setflags(write=False)
        assert Model(flip=a).flip.tolist() == [9, 1, 2, 3]
        assert Model(flip=[a, a]).flip.shape == (2, 4)
        assert Model(flip=a[0]).flip.shape == ()
        assert Model(flip=np.float32(1.5)).flip.dtype == torch.float32

    def test_tensors_records_ints_and_none_pass(self) -> None:
        flip = torch.ones(2)
        pool = Pool(fraction=0.5)
        x = Model(flip=flip, pool=pool, offset=None)
        assert x.flip is flip
        assert x.pool is pool
        assert Tissue(T1=0, T2=True).T1 == 0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
    def test_arrays_that_only_speak_dlpack(self, dtype: torch.dtype) -> None:
        data = torch.arange(4).to(dtype)
        x = Model(flip=_Foreign(data))
        data.zero_()
        assert x.flip.dtype == dtype
        assert x.flip.tolist() == [0, 1, 2, 3]
        assert Model(flip=[_Foreign(data), _Foreign(data)]).flip.shape == (2, 4)

    @pytest.mark.parametrize("value", ["1", {1.0}, {"a": 1.0}, object(), 1j, abs, b"1"])
    def test_what_is_no_number_is_refused(self, value: Any) -> None:
        kind = type(value).__name__
        with pytest.raises(TypeError, match=f"Tissue: T1 must be .* got the {kind}"):
            Tissue(T1=value, T2=0.1)
        with pytest.raises(TypeError, match="T2 must be a number"):
            mrsim.replace(Tissue(T1=1.0, T2=0.1), T2=value)

    def test_works_inside_transforms(self) -> None:
        def f(t: Tensor) -> Tensor:
            x = Tissue(T1=[t, 2 * t], T2=0.1, B1=t)
            return (x.T1 * x.T2).sum() * x.B1

        t = torch.tensor([0.5, 1.0, 2.0])
        torch.testing.assert_close(vmap(f)(t), 0.3 * t**2)
        torch.testing.assert_close(vmap(grad(f))(t), 0.6 * t)
        torch.testing.assert_close(vmap(jacfwd(jacfwd(f)))(t), torch.full((3,), 0.6))

    def test_works_under_make_fx(self) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        graph = make_fx(lambda t: Tissue(T1=t, T2=0.1).T2 * t)(torch.tensor(2.0))
        torch.testing.assert_close(graph(torch.tensor(3.0)), torch.tensor(0.3))
