import copy
import math
import pickle
import sys

import numpy as np
import pytest

from thalweg.results import Displacement, Ends, History, Profile, Provenance, Surface

ALPHA = np.array([-0.5, 0.1, 0.4, 1.3])


def make_profile():
    rng = np.random.default_rng(3)
    return Profile(
        alpha=ALPHA,
        loss={"train": rng.normal(size=4), "valid": rng.normal(size=4)},
        metrics={"error": {"valid": rng.uniform(size=4)}},
        ends=Ends(alpha=[0.0, 1.0], loss={"train": [2.0, 1.0], "valid": [2.5, 1.5]}),
        samples={"train": rng.normal(size=(5, 4))},
    )


def make_surface():
    return Surface(
        x=[-1.0, 0.5],
        y=[2.0, 3.0, 7.0],
        loss={"train": np.arange(6.0).reshape(3, 2)},
        metrics={"error": {"train": np.ones((3, 2))}},
        labels=("a", "b"),
        anchors=[[0.0, 0.0], [1.0, 0.0]],
        gram=[[4.0, 1.0], [1.0, 2.0]],
    )


def make_history():
    return History(epoch=[0, 1, 5], loss={"train": [3.0, 2.0, 1.0]}, best=5.0)


RESULTS = {"profile": make_profile, "surface": make_surface, "history": make_history}


def test_a_bare_array_is_the_split_called_train():
    for result in (
        Profile(alpha=[0, 1], loss=[3, 4]),
        Surface(x=[0, 1], y=[0], loss=[[3, 4]]),
        History(epoch=[0, 1], loss=np.array([3, 4])),
    ):
        assert result.first_split == "train"
        np.testing.assert_array_equal(np.ravel(result.loss["train"]), [3.0, 4.0])


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_the_first_split_given_is_the_cost(make):
    assert make().first_split == "train"
    assert Profile(alpha=[0.5], loss={"valid": [1.0], "train": [2.0]}).first_split == "valid"


@pytest.mark.parametrize(
    "read",
    [
        lambda: make_profile().alpha,
        lambda: make_profile().loss["train"],
        lambda: make_profile().metrics["error"]["valid"],
        lambda: make_profile().samples["train"],
        lambda: make_profile().ends.alpha,
        lambda: make_profile().ends.loss["valid"],
        lambda: make_surface().x,
        lambda: make_surface().y,
        lambda: make_surface().gram,
        lambda: make_surface().anchors,
        lambda: make_surface().loss["train"],
        lambda: make_history().epoch,
    ],
)
def test_arrays_are_read_only_float64(read):
    array = read()
    assert array.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


def test_arrays_are_copies_of_what_was_given():
    loss = np.array([1.0, 2.0])
    profile = Profile(alpha=[0.25, 1.25], loss=loss)
    loss[0] = 99.0
    assert profile.loss["train"][0] == 1.0


def test_tables_are_read_only():
    profile = make_profile()
    for table in (profile.loss, profile.metrics, profile.metrics["error"], profile.samples):
        with pytest.raises(TypeError, match="does not support item assignment"):
            table["new"] = 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Profile(alpha=[0, 1], loss=[1, 2, 3]), r"`loss\['train'\]` must have shape \(2\)"),
        (lambda: Profile(alpha=[[0, 1]], loss=[1, 2]), r"`alpha` must have shape \(any\)"),
        (
            lambda: Profile(alpha=[0, 1], loss=[1, 2], metrics={"error": {"valid": [1]}}),
            r"`metrics\['error'\]\['valid'\]` must have shape \(2\); got \(1,\)",
        ),
        (
            lambda: Profile(alpha=[0, 1], loss=[1, 2], samples={"train": [1, 2]}),
            r"`train` must have shape \(any, 2\)",
        ),
        (lambda: Ends(alpha=[0, 1, 2], loss=[1, 2]), r"`alpha` must have shape \(2\)"),
        (lambda: Ends(alpha=[0, 1], loss=[1]), r"must have shape \(2\); got \(1,\)"),
        (
            lambda: Surface(x=[0, 1], y=[0, 1, 2], loss=np.zeros((2, 3))),
            r"must have shape \(3, 2\); got \(2, 3\)",
        ),
        (
            lambda: Surface(x=[0], y=[0], loss=[[1]], gram=np.eye(3)),
            r"`gram` must have shape \(2, 2\)",
        ),
        (
            lambda: Surface(x=[0], y=[0], loss=[[1]], anchors=[1.0, 2.0]),
            r"`anchors` must have shape \(any, 2\)",
        ),
        (lambda: History(epoch=[0, 1], loss=[1]), r"must have shape \(2\)"),
    ],
)
def test_shapes_must_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda c: Profile(alpha=c, loss=[1.0, 2.0]), "alpha"),
        (lambda c: Ends(alpha=c, loss=[1.0, 2.0]), "alpha"),
        (lambda c: Surface(x=c, y=[1.0], loss=[[1.0, 2.0]]), "x"),
        (lambda c: Surface(x=[1.0], y=c, loss=[[1.0], [2.0]]), "y"),
    ],
)
def test_coordinates_must_be_finite_and_ascend(make, name):
    for bad in ([1.5, np.nan], [np.inf, 1.0], [-np.inf, 1.0]):
        with pytest.raises(ValueError, match=f"finite; `{name}` holds NaN or infinity"):
            make(bad)
    for bad in ([1.5, 1.5], [1.5, 1.0]):
        with pytest.raises(ValueError, match=f"ascend strictly; `{name}` repeats or goes back"):
            make(bad)


def test_a_result_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="needs the loss of one split at least"):
        Profile(alpha=[0.0, 1.0], loss={})


def test_a_loss_that_is_not_finite_is_a_value():
    profile = Profile(alpha=[0.5, 1.5], loss=[np.nan, np.inf])
    assert np.isnan(profile.loss["train"][0])
    assert profile.loss["train"][1] == np.inf


def test_standard_error_of_a_monte_carlo_loss():
    # Samples 1, 2, 3 and 4, 4, 4: variances 1 and 0, so errors 1/√3 and 0.
    profile = Profile(
        alpha=[0.5, 1.5],
        loss={"train": [2.0, 4.0], "valid": [1.0, 1.0]},
        samples={"train": [[1.0, 4.0], [2.0, 4.0], [3.0, 4.0]]},
    )
    np.testing.assert_allclose(profile.standard_error(), [1 / math.sqrt(3), 0.0], rtol=1e-15)
    np.testing.assert_array_equal(profile.standard_error("train"), profile.standard_error())
    assert profile.standard_error("valid") is None
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'valid'; got 'test'"):
        profile.standard_error("test")


def test_standard_error_of_one_sample_is_unknown():
    profile = Profile(alpha=[0.5], loss=[2.0], samples={"train": [[2.0]]})
    assert np.isnan(profile.standard_error()).all()


def assert_same(a, b):
    assert type(a) is type(b)
    assert list(a.loss) == list(b.loss)
    for split in a.loss:
        np.testing.assert_array_equal(a.loss[split], b.loss[split])
        assert not b.loss[split].flags.writeable
    assert {m: list(t) for m, t in a.metrics.items()} == {m: list(t) for m, t in b.metrics.items()}


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_results_can_be_copied_and_pickled(make):
    result = make()
    assert_same(result, copy.deepcopy(result))
    assert_same(result, pickle.loads(pickle.dumps(result)))  # noqa: S301  our own bytes


def test_copies_keep_the_ends_and_the_samples():
    profile = make_profile()
    twin = copy.deepcopy(profile)
    assert_same(profile.ends, twin.ends)
    np.testing.assert_array_equal(profile.samples["train"], twin.samples["train"])
    assert twin.provenance == Provenance()


def test_profile_to_xarray():
    profile = make_profile()
    dataset = profile.to_xarray()
    assert dataset.loss.dims == ("split", "alpha")
    np.testing.assert_array_equal(dataset.alpha, ALPHA)
    np.testing.assert_array_equal(dataset.loss.sel(split="valid"), profile.loss["valid"])
    np.testing.assert_array_equal(
        dataset.error.sel(split="valid"), profile.metrics["error"]["valid"]
    )
    assert np.isnan(dataset.error.sel(split="train")).all()
    assert dataset.samples.dims == ("sampled_split", "sample", "alpha")
    np.testing.assert_array_equal(
        dataset.samples.sel(sampled_split="train"), profile.samples["train"]
    )


def test_slopes_to_xarray():
    profile = Profile(
        alpha=[0.0, 1.0], loss={"train": [2.0, 1.0], "valid": [3.0, 3.0]}, slope={"train": [-1, -2]}
    )
    assert not profile.slope["train"].flags.writeable
    dataset = profile.to_xarray()
    assert dataset.slope.dims == ("split", "alpha")
    assert dataset.slope.sel(split="train").values.tolist() == [-1.0, -2.0]
    assert np.isnan(dataset.slope.sel(split="valid")).all()
    assert "slope" not in make_profile().to_xarray()


def test_slopes_fit_the_coordinates_and_are_made_use_of():
    with pytest.raises(ValueError, match=r"`slope\['train'\]` must have shape"):
        Profile(alpha=[0.0, 1.0], loss=[2.0, 1.0], slope={"train": [1.0]})
    cubic = Profile(alpha=[0.0, 2.0], loss=[-1.0, 7.0], slope={"train": [0.0, 12.0]})
    np.testing.assert_allclose(cubic.interpolate([0.5, 1.0]), [-0.875, 0.0], atol=1e-14)


def test_surface_and_history_to_xarray():
    surface = make_surface().to_xarray()
    assert surface.loss.dims == ("split", "y", "x")
    assert float(surface.loss.sel(split="train", y=7.0, x=0.5)) == 5.0
    history = make_history().to_xarray()
    assert float(history.loss.sel(split="train", epoch=5)) == 1.0


def test_to_xarray_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"pip install 'thalweg\[notebook\]'"):
        make_profile().to_xarray()


# Displacement


def make_displacement():
    return Displacement(
        step=[0, 5, 9],
        projection=[0.0, 3.0, 6.0],
        distance=[0.0, 4.0, 0.0],
        norm=[0.0, 8.0, 10.0],
        update_length=[5.0, 5.0],
        length=6.0,
    )


def test_shares_of_a_displacement():
    found = make_displacement()
    np.testing.assert_array_equal(found.from_start, [0, 5, 6])
    np.testing.assert_array_equal(found.captured, [np.nan, 0.6, 1])
    np.testing.assert_array_equal(found.distance_share, [np.nan, 0.5, 0])
    assert found.path_length == 10
    assert found.furthest == 1


def test_what_is_not_known_of_a_displacement_is_nan():
    found = make_displacement()
    assert np.isnan(found.second).all()
    assert found.heading.shape == (2,)
    assert found.update_cosine.shape == (1,)
    assert Displacement([3], [1.0], [2.0]).update_cosine.shape == (0,)


def test_a_displacement_is_frozen_and_can_be_copied():
    found = make_displacement()
    with pytest.raises(ValueError, match="read-only"):
        found.distance[0] = 1.0
    for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):  # noqa: S301  ours
        np.testing.assert_array_equal(twin.distance, found.distance)
        assert twin.length == 6


def test_shapes_of_a_displacement_must_fit():
    with pytest.raises(ValueError, match=r"`distance` must have shape \(2\); got \(3,\)"):
        Displacement([0, 1], [0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match=r"`heading` must have shape \(1\); got \(2,\)"):
        Displacement([0, 1], [0, 1], [0, 1], heading=[1, 1])
    with pytest.raises(ValueError, match=r"`step` is empty\. Give the points of a run"):
        Displacement([], [], [])


def test_displacement_to_xarray():
    dataset = make_displacement().to_xarray()
    assert float(dataset.distance.sel(step=5)) == 4
    assert dataset.update_length.sel(from_step=5) == 5
    assert dataset.update_cosine.dims == ("turn_step",)
    assert dataset.turn_step.values.tolist() == [5]
