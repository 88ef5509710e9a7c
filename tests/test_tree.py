"""Records: pytrees in both registries, conversions, and edits by field name."""

import copy
import io
import math
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import optree
import pytest
import strategies
import torch
from hypothesis import given, strategies as st
from record_models import Model, model
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.utils import _pytree

import mrsim
from mrsim import Tissue, neutral, record, tree


def same(a: Any, b: Any) -> bool:
    """Tell whether two trees have one structure and bitwise equal leaves."""
    (x, s), (y, t) = tree.tree_flatten(a), tree.tree_flatten(b)
    return s == t and all(torch.equal(p, q) for p, q in zip(x, y, strict=True))


CASES = {
    "tissue": Tissue(T1=1.0, T2=0.1),
    "tissue full": Tissue(T1=1.0, T2=0.1, M0=2.0, B1=0.9, df=5.0),
    "nested": model(),
    "static": model(order=5, kind=("b", "c"), phase=[0.1, 0.2]),
    "absent": Model(flip=[1.0]),
}


@pytest.mark.parametrize("x", CASES.values(), ids=CASES.keys())
class TestRoundTrips:
    def test_torch_registry(self, x: Any) -> None:
        leaves, spec = _pytree.tree_flatten(x)
        assert all(isinstance(v, Tensor) for v in leaves)
        assert same(_pytree.tree_unflatten(leaves, spec), x)

    def test_optree_registry(self, x: Any) -> None:
        leaves, spec = optree.tree_flatten(x)
        assert len(leaves) == len(_pytree.tree_leaves(x))
        assert same(optree.tree_unflatten(spec, leaves), x)

    def test_paths_name_the_fields_in_both(self, x: Any) -> None:
        ours = [_pytree.keystr(p) for p, _ in _pytree.tree_flatten_with_path(x)[0]]
        names = [n for n in tree.names(x) if tree.get(x, n) is not None]
        assert ours == [f".{n}" for n in names]
        paths = optree.tree_accessors(x)
        assert [p.codify("") for p in paths] == ours

    def test_pickle_and_deepcopy(self, x: Any) -> None:
        assert same(pickle.loads(pickle.dumps(x)), x)
        twin = copy.deepcopy(x)
        assert same(twin, x)
        assert twin is not x
        assert tree.tree_leaves(twin)[0] is not tree.tree_leaves(x)[0]

    def test_torch_load_with_its_safe_default(self, x: Any) -> None:
        file = io.BytesIO()
        torch.save(x, file)
        file.seek(0)
        assert same(torch.load(file, weights_only=True), x)

    def test_identity_under_transforms(self, x: Any) -> None:
        batch = mrsim.expand(x, 3)
        mapped = vmap(lambda v: tree.tree_map(lambda t: 2 * t, v))(batch)
        assert same(mapped, tree.tree_map(lambda t: 2 * t, batch))

        def energy(v: Any) -> Tensor:
            return torch.stack([(t**2).sum() for t in tree.tree_leaves(v)]).sum()

        assert same(grad(energy)(x), tree.tree_map(lambda t: 2 * t, x))


@given(strategies.tissues(optional=True))
def test_random_tissues_survive_both_registries(x: Tissue) -> None:
    leaves, spec = optree.tree_flatten(x)
    assert same(tree.tree_unflatten(leaves, tree.tree_flatten(x)[1]), x)
    assert same(optree.tree_unflatten(spec, leaves), x)
    assert same(pickle.loads(pickle.dumps(x)), x)


@given(strategies.programs())
def test_random_programs_keep_their_layout(x: Any) -> None:
    twin = pickle.loads(pickle.dumps(x))
    assert same(twin, x)
    assert twin.layout == x.layout
    assert tree.tree_map(torch.clone, x).layout is x.layout


class TestRecord:
    def test_none_has_no_leaf_and_no_derivative(self) -> None:
        x = Tissue(T1=1.0, T2=0.1)
        assert len(tree.tree_leaves(x)) == 2
        g = grad(lambda t: t.T1 * t.T2)(x)
        assert (g.T1, g.T2) == (x.T2, x.T1)
        assert g.M0 is None
        assert g.df is None

    def test_static_is_structure(self) -> None:
        a, b = (tree.tree_flatten(model(order=n))[1] for n in (1, 2))
        assert a != b
        assert a == tree.tree_flatten(model(order=1))[1]

    def test_is_frozen_and_keyword_only(self) -> None:
        x = Tissue(T1=1.0, T2=0.1)
        with pytest.raises(FrozenInstanceError):
            x.T1 = torch.tensor(2.0)
        with pytest.raises(FrozenInstanceError, match="T1"):
            del x.T1
        with pytest.raises(FrozenInstanceError, match="T3"):
            x.T3 = 1.0
        with pytest.raises(TypeError):
            Tissue(1.0, 0.1)
        with pytest.raises(TypeError, match="T2"):
            Tissue(T1=1.0)

    def test_compares_and_hashes_by_identity(self) -> None:
        x = Tissue(T1=1.0, T2=0.1)
        assert x == x
        assert x != copy.copy(x)
        assert {x: 1}[x] == 1

    def test_different_structures_are_refused_with_the_field(self) -> None:
        one, two = Tissue(T1=1.0, T2=0.1), Tissue(T1=1.0, T2=0.1, B1=1.0)
        with pytest.raises(ValueError, match="B1"):
            vmap(lambda t: t.T1, in_dims=(Tissue(T1=0, T2=0),))(mrsim.expand(two, 2))
        with pytest.raises(RuntimeError, match="B1"):
            jvp(lambda t: t.T1, (one,), (two,))

    def test_ints_serve_as_in_dims(self) -> None:
        x = Tissue(T1=[1.0, 2.0, 3.0], T2=0.1)
        axes = Tissue(T1=0, T2=None)
        with pytest.raises(ValueError, match="in_dims"):
            vmap(lambda t: t.T1 * t.T2, in_dims=(axes,))(x)
        full = tree.put(x, "T2", torch.tensor([[0.1, 0.2, 0.3]]))
        y = vmap(lambda t: t.T1 * t.T2[0], in_dims=(Tissue(T1=0, T2=1),))(full)
        torch.testing.assert_close(y, torch.tensor([0.1, 0.4, 0.9]))

    def test_can_be_defined_twice_as_in_a_notebook(self) -> None:
        def cell() -> Any:
            @record
            class Again:
                a: Tensor

            return Again(a=1.0)

        first, second = cell(), cell()
        assert type(first) is not type(second)
        assert len(tree.tree_leaves((first, second))) == 2

    def test_works_with_the_compiled_pytree(self) -> None:
        from torch.utils import _cxx_pytree

        x = model()
        leaves, spec = _cxx_pytree.tree_flatten(x)
        assert same(_cxx_pytree.tree_unflatten(leaves, spec), x)

    def test_plain_dataclasses_are_no_records(self) -> None:
        import dataclasses

        made = dataclasses.make_dataclass("Plain", ["a"])
        assert tree.is_record(model())
        assert not tree.is_record(made(a=1))
        assert not tree.is_record(Model)
        assert not tree.is_record(torch.ones(1))


class TestEdits:
    def test_names_are_dotted_and_skip_static(self) -> None:
        assert list(tree.names(model())) == [
            "flip",
            "phase",
            "offset",
            "pool.fraction",
            "pool.k",
        ]

    @pytest.mark.parametrize("name", ["flip", "pool.k"])
    def test_put_then_get(self, name: str) -> None:
        x = model()
        y = tree.put(x, name, torch.tensor(7.0))
        assert tree.get(y, name) == 7.0
        assert tree.get(x, name) is not tree.get(y, name)
        assert tree.get(y, "pool.fraction") is tree.get(x, "pool.fraction")
        assert y.order == x.order

    def test_replace_converts(self) -> None:
        x = mrsim.replace(model(), flip=[3.0], order=9)
        assert x.flip.tolist() == [3.0]
        assert x.order == 9
        assert x.pool is not None

    def test_promote_gives_the_neutral_value(self) -> None:
        x = model(flip=torch.ones(3, dtype=torch.float32))
        phase = tree.promote(x, "phase").phase
        assert phase is not None
        assert phase.dtype == torch.float32
        assert phase.tolist() == [0.0] * 3
        k = tree.promote(x, "pool.k").pool.k
        assert k == 3.0
        assert k.shape == ()

    def test_promote_keeps_what_is_there(self) -> None:
        x = model(phase=[0.1, 0.2])
        assert tree.promote(x, "phase") is x

    def test_promote_without_neutral_value_teaches(self) -> None:
        with pytest.raises(
            ValueError, match=r"Model\.offset is None and has no neutral"
        ):
            tree.promote(model(), "offset")

    def test_promote_ignores_integer_leaves(self) -> None:
        x = Tissue(T1=torch.tensor(1), T2=0.1)
        B1 = tree.promote(x, "B1").B1
        assert B1 is not None
        assert B1.is_floating_point()

    def test_only_keeps_the_wanted(self) -> None:
        x = tree.only(
            model(), ["flip", "pool.k"], lambda n: torch.tensor(float(len(n)))
        )
        assert x.flip == 4.0
        assert x.pool is not None
        assert x.pool.k == 6.0
        assert x.pool.fraction is None
        assert x.phase is None
        assert x.order == 2

    def test_to_moves_floats_only(self) -> None:
        x = model(offset=torch.tensor([1, 2]))
        y = mrsim.to(x, dtype=torch.float32)
        assert y.flip.dtype == y.pool.fraction.dtype == torch.float32
        assert y.offset.dtype == torch.int64
        assert mrsim.to(x, device="meta").offset.is_meta
        assert same(mrsim.to(x), x)

    def test_expand_gives_contiguous_rows(self) -> None:
        y = mrsim.expand(model(), 4)
        assert y.flip.shape == (4, 2)
        assert y.flip.is_contiguous()
        assert y.pool.fraction.shape == (4,)
        assert y.phase is None


class TestGrid:
    def test_is_every_combination_first_slowest(self) -> None:
        x = mrsim.grid(
            Tissue(T1=1.0, T2=0.1, B1=0.9), T1=[1.0, 2.0], T2=[0.1, 0.2, 0.3]
        )
        assert x.T1.tolist() == [1, 1, 1, 2, 2, 2]
        assert x.T2.tolist() == [0.1, 0.2, 0.3] * 2
        assert x.B1 is not None
        assert x.B1.tolist() == [0.9] * 6
        assert all(v.is_contiguous() for v in tree.tree_leaves(x))

    @given(st.integers(1, 5), st.integers(1, 5))
    def test_has_the_product_of_the_lengths(self, m: int, n: int) -> None:
        x = mrsim.grid(
            Tissue(T1=1.0, T2=0.1),
            B1=torch.linspace(0.8, 1.2, m),
            df=np.linspace(-5, 5, n),
        )
        assert {v.shape for v in tree.tree_leaves(x)} == {(m * n,)}

    def test_takes_the_dtype_of_the_base(self) -> None:
        base = mrsim.to(Tissue(T1=1.0, T2=0.1), dtype=torch.float32)
        frozen = np.linspace(0.8, 1.2, 3)
        frozen.setflags(write=False)
        x = mrsim.grid(base, T1=[1, 2], B1=frozen, df=[1.0])
        assert {v.dtype for v in tree.tree_leaves(x)} == {torch.float32}

    def test_carries_derivatives(self) -> None:
        def total(t: Tensor) -> Tensor:
            x = mrsim.grid(Tissue(T1=1.0, T2=0.1), T1=t, B1=[1.0, 2.0])
            return (x.T1 * x.B1).sum()

        assert grad(total)(torch.tensor([1.0, 2.0])).tolist() == [3.0, 3.0]

    def test_bad_axes_teach(self) -> None:
        base = Tissue(T1=1.0, T2=0.1)
        with pytest.raises(ValueError, match=r"T3 must be .* field of Tissue \(T1, T2"):
            mrsim.grid(base, T3=[1.0])
        with pytest.raises(
            ValueError, match=r"T1 must be a 1-D list .* shape \(2, 2\)"
        ):
            mrsim.grid(base, T1=torch.ones(2, 2))
        with pytest.raises(ValueError, match="T2 must not be negative"):
            mrsim.grid(base, T2=[-0.1, 0.1])
        with pytest.warns(UserWarning, match="T1 = 1500 s looks like milliseconds"):
            mrsim.grid(base, T1=[500.0, 1500.0])


def test_neutral_may_be_any_number() -> None:
    @record
    class Train:
        flip: Tensor
        excitation: Tensor | None = neutral(math.pi / 2)

    x = tree.promote(Train(flip=[1.0]), "excitation")
    assert x.excitation == math.pi / 2
