"""Maps, meshes and streamlines: colours, units, and pages that need no network."""

import re

import numpy as np
import pytest
import torch

from mrsim import plot, torrey, tract
from mrsim.units import ms, um

figures = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def space():
    return figures.Figure().add_subplot(projection="3d")


@pytest.fixture(scope="module")
def ball():
    return torrey.mesh_sphere(5 * um, size=3 * um)


def bundle(*lengths):
    """Return tracks along x, y, z, x, … with the given numbers of vertices."""
    tracks = [
        torch.outer(torch.arange(float(n)), torch.eye(3)[k % 3])
        for k, n in enumerate(lengths)
    ]
    blank = torch.zeros(len(lengths), dtype=torch.long)
    return tract.Tracks(
        points=torch.cat(tracks),
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        seed_index=blank,
        accepted=blank == 0,
        reasons=torch.stack([blank, blank], 1),
    )


class TestMaps:
    def shown(self, values, **options):
        panels = figures.Figure().subplots(1, len(values), squeeze=False)[0]
        return plot.maps(panels, values, **options)

    def test_bars_name_quantity_and_unit(self):
        plane = torch.rand(5, 4)
        images = self.shown({"T2_sd": plane, "D": plane, "fa": plane, "odd": plane})
        labels = [image.colorbar.ax.get_ylabel() for image in images]
        assert labels == ["sd of T2 [ms]", "D [µm²/ms]", "fa", "odd"]

    def test_values_are_in_the_unit_shown(self):
        (image,) = self.shown({"T1": torch.full((3, 2), 950 * ms)})
        assert np.allclose(image.get_array(), 950)

    def test_limits_are_quantiles_over_the_mask(self):
        plane = torch.linspace(0, 1, 101)[:, None] * ms
        mask = plane < 0.5 * ms
        (image,) = self.shown({"T2": plane}, mask=mask, share=(0.0, 0.9))
        assert image.get_clim() == pytest.approx((0, 0.9 * 0.49))

    @pytest.mark.parametrize(
        ("name", "centre"), [("B1", 1.0), ("df", 0.0), ("T2 error", 0)]
    )
    def test_diverging_colours_have_their_middle_in_the_middle(self, name, centre):
        (image,) = self.shown({name: torch.tensor([[0.7, 0.9], [1.1, 0.8]])})
        assert sum(image.get_clim()) / 2 == pytest.approx(centre)

    def test_nan_and_constant_maps_are_drawn(self):
        plane = torch.full((3, 2), torch.nan)
        images = self.shown({"T1": plane, "M0": torch.zeros(3, 2)})
        assert all(np.isfinite(image.get_clim()).all() for image in images)

    def test_mistakes_are_named(self):
        plane = torch.zeros(3, 2)
        panels = figures.Figure().subplots(1, 2)
        with pytest.raises(ValueError, match=r"subplots\(1, 1\)"):
            plot.maps(panels, {"T1": plane})
        with pytest.raises(ValueError, match=r"T1 must have shape \(x, y\)"):
            plot.maps(panels, {"T1": plane[None], "T2": plane})


class TestMesh:
    def test_surface_is_drawn_in_micrometres(self, space, ball):
        plot.mesh(space, *ball)
        assert space.get_zlabel() == "z [µm]"
        reach = float(ball[0].points[:, 0].max()) / um
        assert space.get_xlim() == pytest.approx(
            (-1.04 * reach, 1.04 * reach), rel=0.01
        )

    def test_field_colours_the_facets_in_the_order_of_its_values(self, space, ball):
        nodes, topology = ball
        surface = plot.mesh(space, nodes, topology, nodes.points[:, 2])
        means = nodes.points[topology.point[topology.outer]][:, :, 2].mean(1)
        assert np.allclose(surface.get_array(), means)
        ends = nodes.points[:, 2].aminmax()
        assert surface.get_clim() == pytest.approx((float(ends.min), float(ends.max)))

    def test_dofs_show_the_jump_at_an_interface(self, space):
        nodes, topology = torrey.mesh_sphere([3 * um, 5 * um], size=3 * um)
        field = topology.home.double()
        surface = plot.mesh(space, nodes, topology, field)
        assert set(surface.get_array()) == {float(topology.home[topology.outer].max())}

    def test_wrong_field_is_refused(self, space, ball):
        with pytest.raises(ValueError, match="one for each point"):
            plot.mesh(space, *ball, torch.zeros(3))


class TestStreamlines:
    def test_colours_are_directions_and_tracks_are_not_joined(self, space):
        drawn = plot.streamlines(space, bundle(3, 2, 4))
        colours = drawn.get_color()[:, :3]
        assert np.allclose(colours, np.eye(3)[[0, 0, 1, 2, 2, 2]])
        assert space.get_xlabel() == "x [mm]"

    def test_values_of_tracks_and_of_vertices(self, space):
        tracks = bundle(3, 2)
        drawn = plot.streamlines(space, tracks, torch.tensor([1.0, 5.0]))
        assert np.allclose(drawn.get_array(), [1, 1, 5])
        drawn = plot.streamlines(space, tracks, torch.tensor([0.0, 1, 2, 7, 9]))
        assert np.allclose(drawn.get_array(), [0.5, 1.5, 8])
        assert drawn.get_clim() == (0, 9)

    def test_projection(self):
        axes = figures.Figure().subplots()
        drawn = plot.streamlines(axes, bundle(3, 2, 2), plane="xz")
        assert np.allclose(drawn.get_segments()[3], [[0, 0], [0, 1]])
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("x [mm]", "z [mm]")

    def test_mistakes_are_named(self, space):
        with pytest.raises(ValueError, match='"xy"'):
            plot.streamlines(space, bundle(3), plane="zx")
        with pytest.raises(ValueError, match="one for each vertex"):
            plot.streamlines(space, bundle(3), torch.zeros(2))
        with pytest.raises(ValueError, match="no vertices"):
            plot.streamlines(space, bundle(0))


class TestPages:
    """A page is one file, and loads nothing."""

    def check(self, page):
        text = page.read_text()
        assert text.count("<script") == text.count("</script")
        outside = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", text)
        assert not outside
        return text

    def test_streamlines(self, tmp_path):
        pytest.importorskip("plotly")
        page = tmp_path / "tracks.html"
        assert plot.streamlines_html(page, bundle(3, 2), title="Two tracks") == page
        text = self.check(page)
        assert '"type":"scatter3d"' in text
        assert "Two tracks" in text
        assert '"rgb(255,0,0)","rgb(255,0,0)","rgb(255,0,0)","rgb(0,0,0)"' in text

    def test_mesh(self, tmp_path, ball):
        pytest.importorskip("plotly")
        page = plot.mesh_html(tmp_path / "mesh.html", *ball, ball[0].points[:, 0])
        assert '"type":"mesh3d"' in self.check(page)
