from typing import get_args

import numpy as np
import pytest

from thalweg.figures import Axis, figure_of, figures_of
from thalweg.figures.plots import _PLOTS
from thalweg.records import Record, Result
from thalweg.results import Ends, History, Profile, Provenance, Surface

MADE = Provenance(
    device="cpu",
    dtype="float32",
    objective={
        "model": "MLP",
        "parameters": 2_097_528,
        "loss": "CrossEntropyLoss",
        "batch_norm": "recalibrate",
        "dropout": None,
        "splits": {
            "train": {"examples": 50_000, "terms": 50_000.0, "sha256": "00"},
            "valid": {"examples": 10_000, "terms": 10_000.0, "sha256": "11"},
        },
    },
    section={"kind": "Plane", "normalize": "filter", "seed": 4},
)


def make_profile(**changes):
    alpha = np.linspace(-0.5, 1.5, 41)
    content = {
        "alpha": alpha,
        "loss": {"train": (alpha - 1.0) ** 2 + 0.5, "valid": (alpha - 0.9) ** 2 + 0.75},
        "labels": ("start", "solution"),
        "provenance": MADE,
        **changes,
    }
    return Profile(**content)


def lines(panel):
    return [(marker.label, marker.x) for marker in panel.markers if marker.y is None]


def points(panel):
    return [(marker.x, marker.y) for marker in panel.markers if marker.y is not None]


# Profiles


def test_a_profile_shows_one_curve_a_split():
    profile = make_profile()
    figure = figure_of(profile)
    (panel,) = figure.panels
    assert figure.title == "Cost along the line from start to solution"
    assert panel.x == Axis("α (0 = start, 1 = solution)", limits=(-0.5, 1.5))
    assert panel.y == Axis("cost J (mean cross-entropy per example)", log=False)
    assert [(curve.label, curve.rank) for curve in panel.curves] == [("train", 0), ("valid", 1)]
    for curve in panel.curves:
        np.testing.assert_array_equal(curve.x, profile.alpha)
        np.testing.assert_array_equal(curve.y, profile.loss[curve.label])
        assert not curve.dots
    assert lines(panel) == [("start", 0.0), ("solution", 1.0)]
    assert panel.bands == ()
    assert panel.map is None


def test_few_points_are_marked():
    (panel,) = figure_of(Profile(alpha=[0.5, 1.0, 1.5], loss=[3.0, 2.0, 1.0])).panels
    assert panel.curves[0].dots


def test_the_caption_states_data_policies_and_precision():
    assert figure_of(make_profile(length=12.3456)).caption == (
        "Cost on train (50\u202f000 examples) and valid (10\u202f000 examples). "
        "Model: MLP, 2\u202f097\u202f528 parameters. "
        "Batch normalisation: recalibrate; dropout: off. "
        "Directions: normalisation filter, seed 4. "
        "Length from start to solution: 12.35. "
        "41 points, float32 on cpu."
    )


def test_the_caption_says_nothing_that_is_not_known():
    bare = Profile(alpha=[0.5, 1.5], loss=[2.0, 1.0], length=3.0, labels=(), anchors=())
    figure = figure_of(bare)
    assert figure.caption == "Cost on train. Length of the line: 3. 2 points."
    assert figure.title == "Cost along a line"
    assert figure.panels[0].x.label == "α"
    assert figure.panels[0].y.label == "cost J"
    assert figure.panels[0].markers == ()


def test_the_caption_of_a_closed_form_names_the_function():
    made = Provenance(objective={"function": "chain", "dropout": {"samples": 3, "seed": 5}})
    caption = figure_of(make_profile(provenance=made)).caption
    assert "Model: chain. Dropout: on (samples 3, seed 5). 41 points." in caption


@pytest.mark.parametrize(
    ("loss", "terms", "label"),
    [
        ("cross_entropy", 10.0, "cost J (mean cross-entropy per example)"),
        ("torch.nn.functional.cross_entropy", 640.0, "cost J (mean cross-entropy per term)"),
        ("CrossEntropyLoss", None, "cost J (mean cross-entropy per example)"),
        ("MSELoss", 10.0, "cost J (mean squared error per example)"),
        ("BCEWithLogitsLoss", 10.0, "cost J (mean binary cross-entropy per example)"),
        ("the model's own loss", 10.0, "cost J (the model's own loss)"),
        (None, 10.0, "cost J"),
    ],
)
def test_the_unit_of_the_cost_follows_from_the_loss(loss, terms, label):
    splits = {"train": {"examples": 10, "terms": terms}}
    made = Provenance(objective={"loss": loss, "splits": splits})
    assert figure_of(make_profile(provenance=made)).panels[0].y.label == label


def test_values_that_are_not_finite_are_gaps():
    loss = np.arange(1.0, 42.0)
    loss[[3, 4, 40]] = np.nan, np.inf, -np.inf
    figure = figure_of(make_profile(loss={"train": loss}))
    np.testing.assert_array_equal(
        np.flatnonzero(np.isnan(figure.panels[0].curves[0].y)), [3, 4, 40]
    )
    assert figure.caption.endswith("3 of 41 values are not finite: gaps.")


def test_a_logarithmic_scale_has_gaps_where_nothing_is_above_zero():
    loss = np.concatenate(([-1.0, 0.0, np.nan], np.full(38, 0.5)))
    figure = figure_of(make_profile(loss={"train": loss}), log=True)
    assert figure.panels[0].y.log
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(figure.panels[0].curves[0].y)), [0, 1, 2])
    assert "1 of 41 values are not finite: gaps." in figure.caption
    assert "2 of 41 values are not above 0: gaps on this scale." in figure.caption


def test_anchors_outside_of_the_grid_or_off_the_section_are_not_drawn():
    profile = make_profile(
        labels=("a", "bend", "c", "d"), anchors=(0.0, float("nan"), 1.0, 7.0), provenance=MADE
    )
    (panel,) = figure_of(profile).panels
    assert lines(panel) == [("a", 0.0), ("c", 1.0)]
    assert panel.x.label == "α (0 = a, 1 = c, 7 = d)"


def test_many_anchors_are_not_listed_on_the_axis():
    profile = make_profile(labels=tuple("abcd"), anchors=(0.0, 0.25, 0.5, 1.0))
    assert figure_of(profile).panels[0].x.label == "α"


def test_anchors_without_a_name_are_lines_without_one():
    profile = make_profile(labels=("start",), anchors=(0.0, 1.0))
    assert lines(figure_of(profile).panels[0]) == [("start", 0.0), ("", 1.0)]


def test_the_cost_at_the_ends_is_marked_where_it_can_be_seen():
    ends = Ends(alpha=[0.0, 1.0], loss={"train": [1.5, 0.5], "valid": [2.0, 0.8]})
    assert points(figure_of(make_profile(ends=ends)).panels[0]) == [(0.0, 1.5), (1.0, 0.5)]
    lost = Ends(alpha=[-3.0, 1.0], loss={"train": [1.5, 0.0], "valid": [2.0, 0.8]})
    assert points(figure_of(make_profile(ends=lost)).panels[0]) == [(1.0, 0.0)]
    assert points(figure_of(make_profile(ends=lost), log=True).panels[0]) == []


def test_metrics_have_panels_of_their_own_in_the_looks_of_the_cost():
    alpha = make_profile().alpha
    profile = make_profile(
        metrics={
            "error": {"valid": np.full(41, 0.25), "test": np.full(41, 0.5)},
            "per_plexity": {"train": np.exp(alpha)},
        },
        ends=Ends(alpha=[0.0, 1.0], loss={"train": [1.5, 0.5], "valid": [2.0, 0.8]}),
    )
    main, error, perplexity = figure_of(profile).panels
    assert error.x == perplexity.x == main.x
    assert (error.y.label, perplexity.y.label) == ("error rate (%)", "per plexity")
    assert [(curve.label, curve.rank) for curve in error.curves] == [("valid", 1), ("test", 2)]
    assert error.curves[0].y[0] == 25.0
    np.testing.assert_array_equal(perplexity.curves[0].y, np.exp(alpha))
    assert perplexity.curves[0].rank == 0
    assert error.height < main.height
    assert lines(error) == [("", 0.0), ("", 1.0)]
    assert points(error) == []


# Bands


def test_a_monte_carlo_cost_has_a_band_of_two_standard_errors():
    rng = np.random.default_rng(8)
    samples = rng.normal(5.0, 0.1, size=(4, 41))
    loss = {"valid": np.ones(41), "train": samples.mean(axis=0)}
    profile = make_profile(loss=loss, samples={"train": samples})
    figure = figure_of(profile)
    (band,) = figure.panels[0].bands
    error = samples.std(axis=0, ddof=1) / 2.0
    np.testing.assert_allclose(band.low, loss["train"] - 2 * error, rtol=1e-14)
    np.testing.assert_allclose(band.high, loss["train"] + 2 * error, rtol=1e-14)
    assert band.rank == 1
    assert "Band: ± 2 standard errors of the mean over 4 Monte-Carlo samples" in figure.caption


def test_a_band_on_a_logarithmic_scale_reaches_down_instead_of_ending():
    samples = np.full((2, 41), 1.0) + np.array([[0.9], [-0.9]])
    profile = make_profile(loss={"train": np.ones(41)}, samples={"train": samples})
    (band,) = figure_of(profile, log=True).panels[0].bands
    np.testing.assert_allclose(band.low, 0.1)
    np.testing.assert_allclose(band.high, 2.8)


def test_a_single_sample_has_no_band_and_says_so():
    profile = make_profile(loss={"train": np.ones(41)}, samples={"train": np.ones((1, 41))})
    figure = figure_of(profile)
    assert figure.panels[0].bands == ()
    assert "one Monte-Carlo sample, so its error is not known" in figure.caption


# Windows


def zoomed(log_loss=False):
    alpha = np.unique(
        np.concatenate(
            (np.linspace(-0.25, 2.1, 48), np.linspace(0, 0.01, 60), np.linspace(0.99, 1, 60))
        )
    )
    loss = 10.0 ** (-100 * alpha) if log_loss else (alpha - 1) ** 2
    rng = np.random.default_rng(2)
    return Profile(
        alpha=alpha,
        loss={"train": loss, "valid": np.ones_like(alpha)},
        samples={name: rng.normal(size=(3, len(alpha))) for name in ("train", "valid")},
        ends=Ends(alpha=[0.0, 1.0], loss={"train": [1.0, 0.0], "valid": [1.0, 1.0]}),
    )


def test_far_denser_stretches_of_the_grid_get_a_panel():
    profile = zoomed()
    figure = figure_of(profile)
    assert [len(row) for row in figure.rows] == [1, 2]
    start, end = figure.rows[1]
    assert start.x == Axis("α", limits=(0.0, 0.01))
    assert end.x == Axis("α", limits=(0.99, 1.0))
    assert (start.title, end.title) == ("0 ≤ α ≤ 0.01", "0.99 ≤ α ≤ 1")
    for panel in (start, end):
        (curve,) = panel.curves
        inside = (profile.alpha >= panel.x.limits[0]) & (profile.alpha <= panel.x.limits[1])
        np.testing.assert_array_equal(curve.x, profile.alpha[inside])
        np.testing.assert_array_equal(curve.y, profile.loss["train"][inside])
        assert [band.rank for band in panel.bands] == [0]
        assert len(panel.bands[0].x) == len(curve.x)
    assert (lines(start), points(start)) == ([("", 0.0)], [(0.0, 1.0)])
    assert (lines(end), points(end)) == ([("", 1.0)], [(1.0, 0.0)])


def test_a_window_is_logarithmic_only_over_more_than_a_decade():
    start, end = figure_of(zoomed(log_loss=True), log=True).rows[1]
    assert not start.y.log  # 10⁰ to 10⁻¹: just one decade
    assert not end.y.log
    steep = zoomed(log_loss=True)
    steeper = Profile(alpha=steep.alpha, loss=steep.loss["train"] ** 2 + 1e-300)
    assert figure_of(steeper, log=True).rows[1][0].y.log


@pytest.mark.parametrize(
    "alpha",
    [
        np.linspace(-1.0, 1.0, 201),
        1 - np.cos(np.linspace(0.0, np.pi, 400)),
        np.unique(np.concatenate([np.linspace(k, k + 0.01, 20) for k in range(6)])),
        np.concatenate((np.linspace(0.0, 0.5, 100), [1.0, 1.5])),
        np.array([0.0, 0.1, 0.1001, 1.0]),
        np.array([1.5]),
        np.array([]),
    ],
    ids=["uniform", "chebyshev", "too many", "too wide", "too few", "one point", "none"],
)
def test_other_grids_have_no_windows(alpha):
    figure = figure_of(Profile(alpha=alpha, loss=np.zeros_like(alpha), labels=(), anchors=()))
    assert len(figure.panels) == 1


# Surfaces


def make_surface(**changes):
    x, y = np.array([-1.0, 0.0, 1.0, 3.0]), np.array([0.0, 1.0, 2.0])
    content = {
        "x": x,
        "y": y,
        "loss": {"train": 1.0 + (x[None, :] - 1.0) ** 2 + (y[:, None] - 1.0) ** 2},
        "labels": ("start", "A", "B", "far"),
        "anchors": [[0.0, 0.0], [1.0, 0.0], [0.5, 1.0], [9.0, 1.0]],
        "gram": [[9.0, 2.0], [2.0, 4.0]],
        "provenance": MADE,
        **changes,
    }
    return Surface(**content)


def test_a_surface_is_drawn_at_true_distances():
    surface = make_surface()
    (panel,) = figure_of(surface).panels
    plane = panel.map
    assert plane.x.shape == plane.y.shape == plane.values.shape == (3, 4)
    np.testing.assert_array_equal(plane.values, surface.loss["train"])
    # All distances between points of the picture are those in parameter space.
    c = np.stack(np.meshgrid(surface.x, surface.y), axis=-1).reshape(-1, 2)
    drawn = np.stack((plane.x.ravel(), plane.y.ravel()), axis=-1)
    steps, moved = c[:, None] - c, drawn[:, None] - drawn
    true = np.sqrt(np.einsum("...i,ij,...j", steps, surface.gram, steps))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), true, atol=1e-12)
    # The first direction stays horizontal.
    np.testing.assert_allclose(np.ptp(plane.y, axis=1), 0.0, atol=1e-12)
    assert np.all(np.diff(plane.x, axis=1) > 0)
    assert np.all(np.diff(plane.y, axis=0) > 0)


def test_anchors_of_a_surface_lie_where_their_coordinates_say():
    (panel,) = figure_of(make_surface()).panels
    places = {marker.label: (marker.x, marker.y) for marker in panel.markers}
    assert list(places) == ["start", "A", "B"]
    assert places["start"] == (0.0, 0.0)
    assert places["A"] == pytest.approx((3.0, 0.0))
    # ½ u + v with ‖u‖ = 3, u·v = 2, ‖v‖ = 2.
    assert places["B"] == pytest.approx((1.5 + 2 / 3, np.sqrt(4 - 4 / 9)))
    assert panel.x.label == "distance along start → A"
    assert panel.y.label == "distance across"


def test_a_surface_without_anchors_has_plain_axes():
    (panel,) = figure_of(make_surface(labels=(), anchors=np.empty((0, 2)))).panels
    assert panel.x.label == "distance along the first direction"
    assert panel.markers == ()


def test_the_words_of_a_surface():
    figure = figure_of(make_surface())
    assert figure.panels[0].map.label == "cost J (mean cross-entropy per example)"
    assert "Directions: normalisation filter, seed 4." in figure.caption
    assert "4 × 3 points, float32 on cpu." in figure.caption
    assert "gaps" not in figure.caption
    assert figure.alt.endswith("from 1 to 6; lowest at coordinates (1, 1).")


def test_colours_are_logarithmic_over_more_than_two_decades():
    steep = np.array([[1.0, 2.0], [3.0, 101.0]])
    at = {"x": [0.5, 1.5], "y": [0.0, 1.0], "labels": (), "anchors": np.empty((0, 2))}
    assert figure_of(make_surface(loss=steep, **at)).panels[0].map.log
    assert not figure_of(make_surface(loss=steep, **at), log=False).panels[0].map.log
    assert not figure_of(make_surface(loss=steep - 1, **at)).panels[0].map.log
    assert not figure_of(make_surface(loss=np.minimum(steep, 99), **at)).panels[0].map.log


def test_a_surface_counts_its_gaps():
    at = {"x": [0.5, 1.5], "y": [0.0, 1.0], "labels": (), "anchors": np.empty((0, 2))}
    loss = np.array([[np.nan, 2.0], [-3.0, np.inf]])
    figure = figure_of(make_surface(loss=loss, **at), log=True)
    assert "3 of 4 values are gaps." in figure.caption
    np.testing.assert_array_equal(np.isnan(figure.panels[0].map.values), [[1, 0], [1, 1]])
    nothing = figure_of(make_surface(loss=np.full((2, 2), np.nan), **at))
    assert nothing.alt.endswith("Contour map without a finite value.")


def test_a_surface_that_is_no_plane_is_refused():
    with pytest.raises(ValueError, match=r"must be independent; their inner products are \[\[1"):
        figure_of(make_surface(gram=[[1.0, 2.0], [2.0, 4.0]]))
    with pytest.raises(ValueError, match=r"two rows and two columns at least; .* shape \(1, 2\)"):
        figure_of(Surface(x=[0.5, 1.5], y=[1.0], loss=[[1.0, 2.0]]))


# Histories and records


def test_a_history_shows_cost_and_metrics_over_the_epochs():
    history = History(
        epoch=[0, 1, 2.5],
        loss={"train": [3.0, 2.0, 1.0], "valid": [3.0, 2.5, np.nan]},
        metrics={"error_rate": {"valid": [0.9, 0.5, 0.25]}},
        best=2.5,
        provenance=MADE,
    )
    figure = figure_of(history)
    main, error = figure.panels
    assert figure.title == "Cost during training"
    assert main.x == Axis("epoch", limits=(0.0, 2.5))
    np.testing.assert_array_equal(main.curves[0].x, [0.0, 1.0, 2.5])
    np.testing.assert_array_equal(main.curves[0].y, [3.0, 2.0, 1.0])
    assert lines(main) == [("kept: epoch 2.5", 2.5)]
    assert lines(error) == [("", 2.5)]
    np.testing.assert_array_equal(error.curves[0].y, [90.0, 50.0, 25.0])
    assert "3 evaluations, float32 on cpu. 1 of 6 values are not finite: gaps." in figure.caption
    assert figure_of(history, log=True).panels[0].y.log
    assert figure_of(History(epoch=[4], loss=[1.0])).panels[0].markers == ()


def test_the_words_for_readers_who_cannot_see_the_figure():
    profile = Profile(
        alpha=[-0.5, 0.0, 1.0, 2.0],
        loss={"train": [np.nan, 2.5, 0.125, 1.0], "valid": [np.nan] * 4},
    )
    assert figure_of(profile).alt == (
        "Cost along the line from start to end. Line plot of the cost. train: 2.5 at α = 0, "
        "lowest 0.125 at α = 1, 1 at α = 2. valid: no finite value."
    )


def test_title_and_caption_can_be_given():
    figure = figure_of(make_profile(), title="Mine", caption="My words.")
    assert (figure.title, figure.caption) == ("Mine", "My words.")
    assert figure.alt.startswith("Mine. Line plot")
    assert figure_of(make_profile(), title="").alt.startswith("Line plot")


def test_every_result_of_a_record_has_its_figure():
    record = Record(
        study="all",
        results={
            "line": make_profile(),
            "other": make_profile(),
            "plane": make_surface(),
            "run": History(epoch=[0, 1], loss=[2.0, 1.0]),
        },
    )
    figures = figures_of(record)
    assert list(figures) == ["line", "other", "plane", "run"]
    assert [figure.title for figure in figures.values()] == [
        "Cost along the line from start to solution (line)",
        "Cost along the line from start to solution (other)",
        "Cost on a plane through parameter space",
        "Cost during training",
    ]
    assert figures_of(record, log=True)["run"].panels[0].y.log


def test_what_has_no_plot_is_refused():
    with pytest.raises(TypeError, match=r"one of Profile, .*; got ndarray.* by way of `displ"):
        figure_of(np.zeros(3))


def test_every_kind_of_result_has_a_plot():
    assert set(_PLOTS) == set(get_args(Result))


def test_captions_say_which_run_they_belong_to():
    profile = Profile(alpha=[0.0, 1.0], loss=[2.0, 1.0])
    asked = {"data": "digits", "seed": 3}
    record = Record(study="line", scale="smoke", asked=asked, results={"only": profile})
    figure = figures_of(record)["only"]
    assert figure.caption.endswith("Study line, scale smoke, data digits, seed 3.")
    assert figures_of(Record(study="line", results={"only": profile}))["only"].caption.endswith(
        "Study line."
    )


def test_a_monte_carlo_profile_is_called_one():
    drawn = Profile(alpha=[0.0, 1.0], loss=[2.0, 1.0], samples={"train": [[2.0, 1.0]]})
    assert figure_of(drawn).title == "Cost with dropout along the line from start to end"


def test_a_short_stretch_of_a_line_says_which_one():
    near = Profile(alpha=[0.99, 0.995, 1.0], loss=[3.0, 2.0, 1.0])
    assert figure_of(near).title == "Cost from α = 0.99 to 1 on the line from start to end"
