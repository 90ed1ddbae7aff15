"""Subsampled estimates, against all subsets, single examples in float64, and many draws."""

import copy
import itertools
import math
import re
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import thalweg as tw
from cases import CLASS_WEIGHTS, Recurrent, Sequences, classes, normal, perceptron, seeded
from thalweg.evaluate.confidence import limits_of_largest, simultaneous_multiplier
from thalweg.evaluate.questions import Values, answered
from thalweg.evaluate.subsample import _corrected, _lagrange, _nodes
from thalweg.records import _made

EXAMPLES = 300
ALPHA = np.linspace(-0.25, 1.25, 13)


class Problem:
    """A network and data, and the loss of every example at every point by plain torch."""

    def __init__(self, build, x, y, loss, terms, **options):
        self.build, self.x, self.y, self.loss, self.terms = build, x, y, loss, terms
        self.objective = tw.ModelObjective(
            seeded(build, 1), loss("mean"), (x, y), dtype=torch.float64, **options
        )
        ends = [nn.utils.parameters_to_vector(seeded(build, n).parameters()) for n in (2, 3, 4)]
        self.ends = [end.detach() + 0.2 for end in ends]
        self.line = tw.Line(*self.ends[:2])

    def estimate(self, grid=ALPHA, **options):
        how = tw.Subsample(**{"examples": 100, "groups": 20, "seed": 3} | options)
        return tw.profile(self.objective, self.line, grid, estimate=how, progress=False)

    def exact(self, grid=ALPHA):
        return tw.profile(self.objective, self.line, grid, progress=False).loss["train"]

    def table(self, alpha=ALPHA):
        """Return summed loss and number of terms of each example, shapes (N, n) and (N,)."""
        model, loss = copy.deepcopy(seeded(self.build, 1)), self.loss("none").double()
        columns = []
        for a in alpha:
            theta = self.ends[0] + a * (self.ends[1] - self.ends[0])
            nn.utils.vector_to_parameters(theta, model.parameters())
            with torch.no_grad():
                terms = loss(model(self.x), self.y)
            columns.append(terms.reshape(len(self.x), -1).sum(1).numpy())
        return np.array(columns).T, np.array([self.terms(y) for y in self.y])


def cross_entropy(**options):
    return lambda reduction: nn.CrossEntropyLoss(reduction=reduction, **options)


def plain(**options):
    x = 0.3 + normal(EXAMPLES, 3, seed=11)
    y = (x[:, 0] + normal(EXAMPLES, seed=12) > 0.3).long() + (x[:, 1] > 1).long()
    return Problem(perceptron, x, y, cross_entropy(), lambda y: 1.0, **options)


def weighted():
    x, y = 0.3 + normal(EXAMPLES, 3, seed=13), classes(EXAMPLES, count=3, seed=14)
    loss = cross_entropy(weight=CLASS_WEIGHTS[:3], ignore_index=1)
    return Problem(
        perceptron, x, y, loss, lambda y: 0.0 if int(y) == 1 else float(CLASS_WEIGHTS[int(y)])
    )


def sequences():
    x = classes(EXAMPLES, 5, count=6, seed=15)
    y = classes(EXAMPLES, 5, count=6, seed=16)
    loss = cross_entropy(ignore_index=0)
    return Problem(Sequences, x, y, loss, lambda y: float((y != 0).sum()))


PROBLEMS = {"plain": plain, "weighted": weighted, "sequences": sequences}


@pytest.fixture(params=PROBLEMS.values(), ids=PROBLEMS)
def problem(request):
    return request.param()


# --- against single examples -----------------------------------------------------------------


def second_computation(problem, *, examples, groups, seed, nodes):
    """Return values and deviations from the losses of single examples, by other formulas."""
    at = tw.Chebyshev(nodes, ALPHA[0], ALPHA[-1]).coordinates() if nodes else np.empty(0)
    sums, counts = problem.table(ALPHA)
    known, _ = problem.table(at)
    exact = known.sum(0) / counts.sum()
    drawn = np.random.default_rng(seed).permutation(EXAMPLES)[:examples]
    if nodes:  # interpolate the losses of each example by a polynomial
        fit = np.polynomial.Polynomial.fit
        place = lambda y: fit(at, y, nodes - 1)(ALPHA)  # noqa: E731
        rest = sums[drawn] - np.array([place(row) for row in known[drawn]])
        base = place(exact)
    else:
        rest, base = sums[drawn], 0.0
    ratio = rest.sum(0) / counts[drawn].sum()
    parts = np.array_split(np.arange(examples), groups)  # of one size here
    off = np.array([(rest[p] - ratio * counts[drawn][p, None]).sum(0) for p in parts])
    scale = math.sqrt((1 - examples / EXAMPLES) * groups / (groups - 1))
    return base + ratio, scale * off / counts[drawn].sum()


@pytest.mark.parametrize("nodes", [0, 4])
def test_is_what_single_examples_give(problem, nodes):
    settings = {"examples": 100, "groups": 20, "seed": 3, "nodes": nodes}
    profile = problem.estimate(**settings)
    value, deviations = second_computation(problem, **settings)
    np.testing.assert_allclose(profile.loss["train"], value, rtol=1e-10)
    np.testing.assert_allclose(profile.estimate.deviations, deviations, atol=1e-12)
    told = profile.estimate
    assert (told.examples, told.of, told.seed) == (100, EXAMPLES, 3)
    assert (told.question, told.answer, told.interval) == ("", "", ())
    right = simultaneous_multiplier(deviations, 0.95, seed=3)
    assert told.multiplier == pytest.approx(right, rel=1e-9)


def test_is_the_cost_itself_with_all_examples(problem):
    profile = problem.estimate(examples=EXAMPLES + 5)
    np.testing.assert_allclose(profile.loss["train"], problem.exact(), rtol=1e-13)
    assert not profile.estimate.half_width.any()
    assert profile.estimate.examples == EXAMPLES


@pytest.mark.parametrize("nodes", [2, 3, 7])
def test_is_exact_at_the_nodes(problem, nodes):
    at = tw.Chebyshev(nodes, -0.25, 1.25).coordinates()
    grid = np.union1d(at, ALPHA[np.abs(ALPHA[:, None] - at).min(1) > 1e-9])
    profile = problem.estimate(grid, nodes=nodes)
    known = np.isin(grid, at)
    np.testing.assert_array_equal(profile.estimate.nodes, at)
    np.testing.assert_allclose(profile.loss["train"][known], problem.exact(at), rtol=1e-13)
    assert not profile.estimate.standard_error[known].any()
    assert profile.estimate.standard_error[~known].all()


def test_is_tighter_with_nodes(problem):
    errors = [problem.estimate(nodes=n).estimate.standard_error.max() for n in (0, 4, 8)]
    assert 16 * errors[2] < 4 * errors[1] < errors[0]


def test_the_smaller_of_two_is_part_of_the_larger():
    """What is drawn first cannot be told from the result, but its examples can: they are marked."""
    x, y = torch.arange(200.0, dtype=torch.float64)[:, None], torch.zeros(200, 1)
    seen = []

    def loss(model, batch):
        seen.append(batch[0][:, 0].tolist())
        return model(batch[0]).sum(), len(batch[0])

    objective = tw.ModelObjective(nn.Linear(1, 1).double(), loss, (x, y))
    line = tw.Line(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]))
    drawn = []
    for examples in (30, 60):
        seen.clear()
        how = tw.Subsample(examples, seed=4, groups=20, nodes=0)
        profile = tw.profile(objective, line, [0.0], estimate=how, progress=False)
        drawn.append(round(float(profile.loss["train"][0]) * examples))
        order = np.random.default_rng(4).permutation(200)[:examples]
        assert drawn[-1] == order.sum()


def test_penalties_are_added_once():
    def decay(named):
        return 0.3 * sum((t**2).sum() for t in named.values())

    with_penalty, without = plain(penalty=decay), plain()
    for nodes in (0, 5):
        profile, bare = (p.estimate(nodes=nodes) for p in (with_penalty, without))
        extra = with_penalty.exact() - without.exact()
        assert extra.min() > 0.4
        np.testing.assert_allclose(profile.loss["train"] - bare.loss["train"], extra, rtol=1e-12)
        np.testing.assert_array_equal(profile.estimate.deviations, bare.estimate.deviations)


def test_other_splits_and_metrics_are_left_out():
    x, y = plain().x, plain().y
    objective = tw.ModelObjective(
        seeded(perceptron, 1),
        nn.CrossEntropyLoss(),
        {"fit": (x, y), "valid": (x[:9], y[:9])},
        metrics={"error": tw.error_rate},
    )
    how = tw.Subsample(100, groups=20, seed=3)
    profile = tw.profile(objective, plain().line, ALPHA, estimate=how, progress=False)
    assert list(profile.loss) == ["fit"]
    assert not profile.metrics
    np.testing.assert_allclose(profile.loss["fit"], plain().estimate().loss["train"], rtol=1e-12)


class Named(nn.Module):
    """A network whose output is a table, in which the scores are the second entry."""

    def __init__(self):
        super().__init__()
        self.body = perceptron()

    def forward(self, x):
        scores = self.body(x)
        return {"hidden": scores.exp(), "logits": scores}


@pytest.mark.parametrize(
    ("build", "loss"),
    [
        (Named, nn.CrossEntropyLoss()),
        (perceptron, lambda output, target: nn.functional.nll_loss(output.log_softmax(1), target)),
        (
            perceptron,
            lambda model, batch: (
                nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum"),
                len(batch[0]),
            ),
        ),
    ],
    ids=["table", "function of output", "function of model"],
)
def test_other_kinds_of_loss_give_the_same(build, loss):
    right = plain()
    expected = right.estimate()
    objective = tw.ModelObjective(seeded(build, 1), loss, (right.x, right.y))
    how = tw.Subsample(100, groups=20, seed=3)
    profile = tw.profile(objective, right.line, ALPHA, estimate=how, progress=False)
    np.testing.assert_allclose(profile.loss["train"], expected.loss["train"], rtol=1e-12)
    assert np.isfinite(profile.estimate.half_width).all()


def test_fewer_examples_than_groups_at_the_last_look():
    """The last ten leave ten groups empty, and a user's mean over nothing is NaN."""
    problem = plain()

    def loss(output, target):
        return nn.functional.nll_loss(output.log_softmax(1), target)

    exact = problem.exact()
    problem.objective = tw.ModelObjective(seeded(perceptron, 1), loss, (problem.x, problem.y))
    knife = tw.ClimbAbove(
        tw.greatest_climb(tw.Profile(alpha=ALPHA, loss=exact)).height * (1 + 1e-9)
    )
    profile = problem.estimate(examples=290, nodes=0, question=knife)
    assert (profile.estimate.answer, profile.estimate.examples) == ("no", EXAMPLES)
    np.testing.assert_allclose(profile.loss["train"], exact, rtol=1e-12)


def test_recurrent_networks_and_curves():
    x, y = normal(EXAMPLES, 5, 4, seed=21), classes(EXAMPLES, count=3, seed=22)
    problem = Problem(Recurrent, x, y, cross_entropy(), lambda y: 1.0)
    curve = tw.BezierCurve(problem.ends)
    how = tw.Subsample(100, groups=20, seed=5)
    profile = tw.profile(problem.objective, curve, ALPHA, estimate=how, progress=False)
    exact = tw.profile(problem.objective, curve, ALPHA, progress=False)
    away = np.abs(profile.loss["train"] - exact.loss["train"])
    assert (away <= profile.estimate.half_width + 1e-12).all()
    assert profile.labels == exact.labels


def test_a_plane(problem):
    plane = tw.Plane.through(*problem.ends)
    x, y = np.linspace(-0.5, 1, 5), np.linspace(0, 1.5, 4)
    how = tw.Subsample(100, groups=20, seed=3, nodes=3)
    surface = tw.surface(problem.objective, plane, x, y, estimate=how, progress=False)
    exact = tw.surface(problem.objective, plane, x, y, progress=False).loss["train"]
    told = surface.estimate
    assert told.nodes.shape == (9, 2)
    assert told.deviations.shape == (20, 20)
    away = np.abs(surface.loss["train"] - exact).ravel()
    assert (away <= told.half_width + 1e-12).all()
    at = {tuple(node) for node in told.nodes}
    known = np.array([(a, b) in at for b in y for a in x])
    assert known.sum() == 6  # the middle of x is a node, that of y lies between two points
    np.testing.assert_allclose(away[known], 0, atol=1e-12)
    assert not told.standard_error[known].any()
    # A row of the table is a line: the polynomials are the same.
    full = tw.surface(
        problem.objective, plane, x, y, estimate=tw.Subsample(EXAMPLES), progress=False
    )
    np.testing.assert_allclose(full.loss["train"], exact, rtol=1e-12)


def test_a_grid_of_one_point():
    profile = plain().estimate([0.4])
    assert profile.estimate.nodes.tolist() == [0.4]
    np.testing.assert_allclose(profile.loss["train"], plain().exact([0.4]), rtol=1e-13)


def test_ranks_share_an_estimate():
    alone = jobs.estimate_shared()
    for shared in jobs.on_ranks(2, jobs.estimate_shared):
        assert shared == alone


# --- against all subsets ----------------------------------------------------------------------


class TestAllSubsets:
    """Every one of the 70 samples of 4 of 8 examples, each example a group of its own."""

    SIZE, DRAWN = 8, 4

    def every_sample(self, nodes=2):
        rng = np.random.default_rng(8)
        alpha = np.linspace(-0.5, 1.5, 5)[:, None]
        at, shares = _nodes(alpha, nodes)
        slope, bend = rng.lognormal(size=(2, self.SIZE, 1))
        loss = lambda a: bend * np.cos(2 * a[:, 0]) + slope * a[:, 0] ** 2  # noqa: E731
        everywhere, known = loss(alpha), loss(at)
        found = []
        for subset in itertools.combinations(range(self.SIZE), self.DRAWN):
            sums = np.concatenate([everywhere[list(subset)], known[list(subset)]], axis=1).T
            counts = np.ones(self.DRAWN)
            share = self.DRAWN / self.SIZE
            found.append(_corrected(sums, counts, known.mean(0), shares, share))
        values, deviations = zip(*found, strict=True)
        return everywhere.mean(0), np.array(values), np.array(deviations)

    @pytest.mark.parametrize("nodes", [0, 2, 3])
    def test_the_mean_is_the_truth(self, nodes):
        truth, values, _ = self.every_sample(nodes)
        np.testing.assert_allclose(values.mean(0), truth, rtol=1e-12)
        assert np.ptp(values, axis=0).max() > 0.1

    @pytest.mark.parametrize("nodes", [0, 2, 3])
    def test_the_covariance_is_that_over_samples(self, nodes):
        _, values, deviations = self.every_sample(nodes)
        right = np.cov(values.T, ddof=0)
        stated = np.mean([d.T @ d for d in deviations], axis=0)
        np.testing.assert_allclose(stated, right, atol=1e-12)

    def test_without_the_finite_population_it_is_not(self):
        _, values, deviations = self.every_sample()
        right = np.cov(values.T, ddof=0)
        infinite = np.mean([d.T @ d for d in deviations], axis=0) / (1 - self.DRAWN / self.SIZE)
        np.testing.assert_allclose(infinite, 2 * right, atol=1e-12)


# --- many draws -------------------------------------------------------------------------------


def draws(losses, alpha, *, examples, groups, nodes, times, seed=0):
    """Yield estimates and deviations of many samples from losses of single examples."""
    at = np.round((1 - np.cos(np.pi * np.arange(nodes) / max(1, nodes - 1))) / 2 * (len(alpha) - 1))
    at = np.unique(at.astype(int))  # points of the grid stand for Chebyshev's
    shares = _lagrange(alpha[at], alpha)
    everywhere = np.concatenate([losses, losses[:, at]], axis=1)
    rng = np.random.default_rng(seed)
    size = examples // groups
    for _ in range(times):
        drawn = everywhere[rng.permutation(len(losses))[:examples]]
        sums = drawn.reshape(groups, size, -1).sum(1).T
        counts = np.full(groups, float(size))
        yield _corrected(sums, counts, losses.mean(0)[at], shares, examples / len(losses))


def heavy(size=4000, seed=3):
    """Losses of which few examples carry the most: at the end the sd is 4 times the mean."""
    rng = np.random.default_rng(seed)
    alpha = np.linspace(0, 1, 21)
    margin = 2.5 + rng.normal(size=(size, 1)) * 1.5 - 6 * (rng.random((size, 1)) < 0.02)
    turn = rng.normal(size=(size, 1))
    arc = 4 * alpha * (1 - alpha)
    return alpha, np.logaddexp(0, -(2 * margin - arc * (1.5 + turn) * 2 + 0.3 * alpha))


def test_losses_are_heavy_tailed():
    _, losses = heavy()
    end = losses[:, -1]
    assert end.std() > 3.5 * end.mean()
    assert stats.skew(end) > 6


TIMES = 400
# As many misses as happen by chance once in a thousand, where five of a hundred are allowed.
MOST_MISSES = int(stats.binom.ppf(0.999, TIMES, 0.05))


def misses(half_widths, *, examples=500, groups=50, nodes=6):
    """Count the draws of which any interval misses the truth, by a rule for half widths."""
    alpha, losses = heavy()
    truth, missed = losses.mean(0), 0
    every = draws(losses, alpha, examples=examples, groups=groups, nodes=nodes, times=TIMES)
    for value, deviations in every:
        half = half_widths(deviations)
        missed += bool((np.abs(value - truth) > half + 1e-12).any())
    return missed


def errors_of(deviations):
    return np.sqrt((deviations**2).sum(0))


def stated(deviations):
    return simultaneous_multiplier(deviations, 0.95, seed=1) * errors_of(deviations)


class TestIntervals:
    @pytest.mark.parametrize("groups", [20, 50])
    def test_hold_for_all_points_at_once(self, groups):
        assert misses(stated, groups=groups) <= MOST_MISSES

    def test_are_not_much_wider_than_they_need_to_be(self):
        assert misses(lambda d: 0.75 * stated(d)) > MOST_MISSES

    def test_of_single_points_do_not_hold_at_once(self):
        pointwise = stats.t.ppf(0.975, 49)
        assert misses(lambda d: pointwise * errors_of(d)) > MOST_MISSES

    def test_that_take_points_for_independent_draws_are_too_wide(self):
        """Šidák's multiplier for 21 independent points, where neighbours move together."""
        multiplier = stats.t.ppf((1 + 0.95 ** (1 / 21)) / 2, 49)
        alpha, losses = heavy()
        every = draws(losses, alpha, examples=500, groups=50, nodes=0, times=40)
        mean = np.mean([simultaneous_multiplier(d, 0.95, seed=1) for _, d in every])
        assert mean < multiplier

    def test_of_skewed_estimates_hold_by_knowing_of_the_skew(self):
        """Without nodes, where Student's multiplier for correlated points does not hold."""

        def symmetric(deviations):
            shares = deviations / errors_of(deviations)
            signs = np.random.default_rng(1).standard_normal((2000, len(shares)))
            largest = np.quantile(np.abs(signs @ shares).max(1), 0.95)
            return largest * stats.t.ppf(0.975, 49) / 1.96 * errors_of(deviations)

        assert misses(symmetric, nodes=0, examples=100) > MOST_MISSES
        assert misses(stated, nodes=0, examples=100) <= MOST_MISSES

    def test_differences_are_far_tighter_than_of_independent_draws(self):
        alpha, losses = heavy()
        truth = losses.mean(0)
        every = draws(losses, alpha, examples=500, groups=50, nodes=0, times=TIMES)
        missed = 0
        for value, deviations in every:
            told = tw.Estimate(
                deviations=deviations,
                multiplier=simultaneous_multiplier(deviations, 0.95, seed=1),
            )
            half = told.difference(10, 11)
            missed += abs(value[11] - value[10] - (truth[11] - truth[10])) > half
            apart = math.hypot(told.half_width[10], told.half_width[11])
            assert half < apart / 10
        assert missed <= MOST_MISSES

    def test_differences_of_independent_draws_would_not_hold(self):
        """Two draws, one for each point: the interval of common examples is far too narrow."""
        alpha, losses = heavy()
        truth = losses.mean(0)
        settings = {"examples": 500, "groups": 50, "nodes": 0, "times": TIMES}
        missed = 0
        pairs = zip(
            draws(losses, alpha, **settings), draws(losses, alpha, **settings, seed=1), strict=True
        )
        for (value, deviations), (other, _) in pairs:
            told = tw.Estimate(deviations=deviations, multiplier=3.0)
            away = abs(value[11] - other[10] - (truth[11] - truth[10]))
            missed += away > told.difference(10, 11)
        assert missed > TIMES / 2

    def test_know_nothing_where_one_group_alone_varies(self):
        alone = np.zeros((50, 1))
        alone[:, 0] = -1 / 50
        alone[7] += 1
        assert simultaneous_multiplier(alone, 0.95, seed=0) > 1e3

    def test_are_exact_where_nothing_varies(self):
        deviations = np.zeros((50, 3))
        assert simultaneous_multiplier(deviations, 0.95, seed=0) == stats.t.ppf(0.975, 49)

    def test_of_many_points_are_those_of_all(self):
        """More points than are redrawn together."""
        deviations = np.random.default_rng(5).normal(size=(40, 1100))
        deviations -= deviations.mean(0)
        whole = simultaneous_multiplier(deviations, 0.95, seed=0)
        halves = [simultaneous_multiplier(d, 0.95, seed=0) for d in (deviations[:, :9], deviations)]
        assert halves[0] < halves[1] == whole
        repeated = np.repeat(deviations[:, :9], 200, axis=1)
        assert simultaneous_multiplier(repeated, 0.95, seed=0) == pytest.approx(halves[0])


# --- questions --------------------------------------------------------------------------------


class TestLimitsOfTheLargest:
    def test_against_the_normal_distribution(self):
        """Many groups and one quantity: both limits are those of a mean."""
        deviations = np.random.default_rng(2).normal(size=(2000, 1))
        deviations = (deviations - deviations.mean(0)) / math.sqrt(2000)
        exact = np.array([False])
        low, high = limits_of_largest(np.array([5.0]), deviations, exact, 0.9, seed=0)
        assert low == pytest.approx(5 - 1.645, abs=0.08)
        assert high == pytest.approx(5 + 1.645, abs=0.08)

    def test_what_is_exact_has_no_width(self):
        deviations = np.random.default_rng(2).normal(size=(50, 2)) * [0.1, 0]
        exact = np.array([False, True])
        low, high = limits_of_largest(np.array([1.0, 9.0]), deviations, exact, 0.9, seed=0)
        assert (low, high) == (9.0, 9.0)

    def test_what_did_not_vary_though_it_may_has_no_limits(self):
        silent = np.array([False, False])
        low, high = limits_of_largest(np.array([0.0, 0.0]), np.zeros((50, 2)), silent, 0.9, seed=0)
        assert (low, high) == (-np.inf, np.inf)


QUESTIONS = {"barrier": tw.BarrierAbove, "climb": tw.ClimbAbove}
MEASURES = {
    "barrier": lambda profile: float(tw.barrier(profile)),
    "climb": lambda profile: tw.greatest_climb(profile).height,
}
GRID = np.linspace(0, 1, 11)


@pytest.fixture(scope="module")
def solutions():
    """A problem whose line goes from one solution to another, over a barrier."""
    problem = plain()
    for number in (2, 3):
        model = seeded(perceptron, number)
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(problem.x), problem.y).backward()
            optimizer.step()
        problem.ends[number - 2] = nn.utils.parameters_to_vector(model.parameters()).detach()
    problem.line = tw.Line(*problem.ends[:2])
    return problem


def told_by_losses(losses, alpha, question, *, examples, groups, confidence, seed):
    """Ask a question of the losses of single examples, without nodes, look after look."""
    size = len(losses)
    looks = [examples]
    while looks[-1] < size:
        looks.append(min(2 * looks[-1], size))
    error = (1 - confidence) / (len(looks) - 1)
    order = np.random.default_rng(seed).permutation(size)
    sums, counts, before = np.zeros((len(alpha), groups)), np.zeros(groups), 0
    for drawn in looks:
        for g, part in enumerate(np.array_split(order[before:drawn], groups)):
            sums[:, g] += losses[part].sum(0)
            counts[g] += len(part)
        before = drawn
        share = drawn / size
        value, spread = _corrected(sums, counts, np.empty(0), np.zeros((len(alpha), 0)), share)
        exact = np.full(len(alpha), drawn == size)
        values = Values(alpha, np.array([0.0, 1.0]), value, spread, exact)
        answer = answered(question, values, 1 - error, seed)
        if answer.final:
            break
    return answer, drawn, value


@pytest.mark.parametrize("name", QUESTIONS)
class TestQuestions:
    @pytest.mark.parametrize("seed", range(5))
    def test_ask_for_what_the_measure_measures(self, name, seed):
        alpha = np.linspace(-0.5, 1.5, 9)
        loss = np.random.default_rng(seed).normal(size=9) + 3
        height = MEASURES[name](tw.Profile(alpha=alpha, loss=loss))
        exact = np.ones(9, dtype=bool)
        values = Values(alpha, np.array([0.0, 1.0]), loss, np.zeros((20, 9)), exact)
        for asked, word in ((height, "no"), (height - 1e-9, "yes"), (height + 1e-9, "no")):
            answer = answered(QUESTIONS[name](max(0.0, asked)), values, 0.95, seed=0)
            assert answer.interval == (height, height)
            assert answer.word == (word if height > 0 else "no")

    def test_an_easy_one_takes_few_examples(self, name, solutions):
        truth = MEASURES[name](
            tw.profile(solutions.objective, solutions.line, GRID, progress=False)
        )
        assert truth > 0.5
        for height, word in ((truth / 3, "yes"), (2 * truth, "no")):
            question = QUESTIONS[name](height)
            profile = solutions.estimate(GRID, examples=40, question=question)
            told = profile.estimate
            assert told.answer == word
            assert told.examples == 40
            assert told.interval[0] <= truth <= told.interval[1]
            assert told.interval[0] < MEASURES[name](profile) < told.interval[1]
            assert told.question == str(question)

    def test_a_knife_edge_takes_all_and_is_right(self, name, solutions):
        exact = tw.profile(solutions.objective, solutions.line, GRID, progress=False)
        truth = MEASURES[name](exact)
        for height, word in ((truth * (1 - 1e-9), "yes"), (truth * (1 + 1e-9), "no")):
            question = QUESTIONS[name](height)
            profile = solutions.estimate(GRID, examples=40, question=question, nodes=4)
            told = profile.estimate
            assert told.answer == word
            assert told.examples == EXAMPLES
            assert told.interval == (MEASURES[name](profile),) * 2
            assert told.interval[0] == pytest.approx(truth, rel=1e-12)
            assert not told.half_width.any()
            np.testing.assert_allclose(profile.loss["train"], exact.loss["train"], rtol=1e-12)

    def test_what_was_drawn_before_counts(self, name, solutions):
        """Where the first looks do not answer, the last gives what a second computation gives."""
        table, _ = solutions.table(GRID)
        truth = MEASURES[name](tw.Profile(alpha=GRID, loss=table.mean(0)))
        settings = {"examples": 40, "groups": 20, "confidence": 0.9, "seed": 5}
        for factor in (0.4, 1.8):
            question = QUESTIONS[name](factor * truth)
            answer, drawn, value = told_by_losses(table, GRID, question, **settings)
            assert 40 < drawn < EXAMPLES
            profile = solutions.estimate(GRID, question=question, nodes=0, **settings)
            told = profile.estimate
            assert (told.answer, told.examples) == (answer.word, drawn)
            assert told.interval == pytest.approx(answer.interval, rel=1e-6)
            np.testing.assert_allclose(profile.loss["train"], value, rtol=1e-12)

    @pytest.mark.parametrize(("factor", "word"), [(0.85, "yes"), (1.15, "no")])
    def test_answers_are_wrong_at_most_as_often_as_stated(self, name, factor, word):
        """Heights beside the truth, at which most draws decide long before the last look."""
        alpha, losses = (each[..., ::2] for each in heavy())
        truth = MEASURES[name](tw.Profile(alpha=alpha, loss=losses.mean(0)))
        times, confidence = 100, 0.8
        settings = {"examples": 100, "groups": 50, "confidence": confidence}
        question = QUESTIONS[name](factor * truth)
        words, intervals, used = [], [], []
        for seed in range(times):
            answer, drawn, _ = told_by_losses(losses, alpha, question, seed=seed, **settings)
            words.append(answer.word)
            intervals.append(answer.interval)
            used.append(drawn)
        most = int(stats.binom.ppf(0.999, times, 1 - confidence))
        assert sum(each != word for each in words) <= most
        assert sum(not low <= truth <= high for low, high in intervals) <= most
        assert np.median(used) <= len(losses) / 2

    def test_without_an_interval_they_would_be(self, name):
        """Who takes the maximum of the first estimates for the truth is wrong more often."""
        alpha, losses = heavy()
        truth = MEASURES[name](tw.Profile(alpha=alpha, loss=losses.mean(0)))
        firsts = draws(losses, alpha, examples=100, groups=50, nodes=0, times=100)
        seen = [MEASURES[name](tw.Profile(alpha=alpha, loss=value)) for value, _ in firsts]
        most = int(stats.binom.ppf(0.999, 100, 0.2))
        assert sum(each < 0.95 * truth for each in seen) > most or (
            sum(each > 1.05 * truth for each in seen) > most
        )


class TestWhatCannotBeAnswered:
    def test_what_the_drawn_examples_do_not_show_is_no_answer(self):
        """Two wrong of 100 examples make a barrier of 0.02 that 20 examples are blind to."""
        x = torch.zeros(100, 1, dtype=torch.float64)
        x[[17, 55]] = 1.0

        def wrong_between(model, batch):
            return ((model.weight * batch[0] - 0.5).abs() < 0.3).sum(), len(batch[0])

        objective = tw.ModelObjective(nn.Linear(1, 1, bias=False).double(), wrong_between, (x, x))
        line = tw.Line(torch.tensor([0.0]), torch.tensor([1.0]))
        for seed in range(10):
            for height, word in ((0.01, "yes"), (0.02, "no")):
                how = tw.Subsample(20, seed, groups=20, question=tw.BarrierAbove(height))
                told = tw.profile(objective, line, GRID, estimate=how, progress=False).estimate
                assert told.answer == word

    def test_losses_that_are_not_finite_leave_it_undetermined(self):
        def loss(model, batch):
            rooted = (0.7 - model.weight * batch[0]).sqrt()
            return rooted.sum(), len(batch[0])

        x = torch.ones(200, 1)
        objective = tw.ModelObjective(nn.Linear(1, 1, bias=False), loss, (x, x))
        line = tw.Line(torch.tensor([0.1]), torch.tensor([0.9]))
        how = tw.Subsample(50, groups=20, question=tw.ClimbAbove(0.1))
        with pytest.warns(RuntimeWarning, match="not finite at 3 of 11 points"):
            profile = tw.profile(objective, line, GRID, estimate=how, progress=False)
        told = profile.estimate
        assert told.answer == "undetermined"
        assert np.isnan(told.interval).all()
        assert told.examples == 50
        finite = np.isfinite(profile.loss["train"])
        assert finite.sum() == 8
        assert np.isfinite(told.half_width[finite]).all()
        assert np.isnan(told.half_width[~finite]).all()

    def test_a_line_without_points_between_its_ends(self):
        told = plain().estimate([0.0, 1.0], nodes=0, question=tw.BarrierAbove(0.0)).estimate
        assert (told.answer, told.interval, told.examples) == ("no", (0.0, 0.0), 100)


def test_the_example_of_the_documentation(capsys):
    page = Path(__file__).parents[2] / "docs" / "which-measure.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(compile(block, page.name, "exec"), {})
    told = capsys.readouterr().out
    assert told.startswith("Is there a barrier higher than 0.1? yes (0.")
    assert told.endswith("200 of 20000\n")


# --- records and refusals ---------------------------------------------------------------------


def test_survives_a_record(tmp_path, solutions):
    profile = solutions.estimate(GRID, question=tw.BarrierAbove(0.1))
    plane = tw.Plane.through(*solutions.ends)
    how = tw.Subsample(100, groups=20, nodes=2)
    surface = tw.surface(
        solutions.objective, plane, [0.0, 1.0], [0.0, 0.5], estimate=how, progress=False
    )
    record = tw.Record(study="estimate", results={"line": profile, "plane": surface})
    opened = tw.open_record(tw.save_record(record, tmp_path / "record"))
    for name, result in (("line", profile), ("plane", surface)):
        told, right = opened.results[name].estimate, result.estimate
        for each in ("examples", "of", "seed", "confidence", "multiplier"):
            assert getattr(told, each) == getattr(right, each)
        assert (told.question, told.answer) == (right.question, right.answer)
        assert told.interval == right.interval
        np.testing.assert_array_equal(told.deviations, right.deviations)
        np.testing.assert_array_equal(told.nodes, right.nodes)
    assert opened.results["line"].estimate.answer == "yes"
    assert copy.deepcopy(profile).estimate.interval == profile.estimate.interval


def test_a_record_from_before_there_were_questions_is_readable():
    """What is not in a record has its default value."""
    old = {"deviations": np.zeros((20, 2)), "multiplier": 2.0, "examples": 20, "of": 50}
    told = _made("Estimate", old)
    assert (told.question, told.answer, told.interval) == ("", "", ())


def test_an_estimate_goes_with_a_fixed_grid_alone(tmp_path):
    problem = plain()
    known = problem.estimate()
    for options, words in (
        ({"keep": tmp_path}, "got `keep` with it"),
        ({"known": known}, "got `known` with it"),
        ({"grid": tw.Adaptive(1e-2)}, "got an adaptive grid with it"),
        ({"keep": tmp_path, "known": known}, "got `keep` and `known` with it"),
    ):
        with pytest.raises(ValueError, match=words):
            tw.profile(
                problem.objective,
                problem.line,
                **{"grid": ALPHA} | options,
                estimate=tw.Subsample(100, groups=20),
                progress=False,
            )
    plane, grid, how = tw.Plane.through(*problem.ends), tw.Adaptive(1e-2), tw.Subsample(100)
    with pytest.raises(ValueError, match="got `keep` and an adaptive grid with it"):
        tw.surface(problem.objective, plane, grid, grid, keep=tmp_path, estimate=how)


def test_an_estimate_is_a_subsample():
    problem = plain()
    with pytest.raises(TypeError, match=r"`estimate` is a `Subsample`; got int"):
        tw.profile(problem.objective, problem.line, estimate=2000)


def test_questions_are_about_lines(solutions):
    plane = tw.Plane.through(*solutions.ends)
    how = tw.Subsample(100, question=tw.ClimbAbove(0.1))
    with pytest.raises(ValueError, match="A question is about a line; got one about a surface"):
        tw.surface(solutions.objective, plane, [0.0, 1.0], [0.0, 1.0], estimate=how)


def test_questions_need_their_points(solutions):
    for grid in ([0.0, 0.5, 0.9], [0.1, 0.5, 1.0]):
        with pytest.raises(ValueError, match=r"alpha = 0 and 1 are not both among the 3 points"):
            solutions.estimate(grid, question=tw.BarrierAbove(0.1))
    with pytest.raises(ValueError, match=r"A climb needs two points at least; the grid has 1"):
        solutions.estimate([0.5], question=tw.ClimbAbove(0.1))


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize("height", [-0.1, math.nan, math.inf])
def test_heights_that_cannot_be_are_refused(question, height):
    with pytest.raises(ValueError, match="A height is a finite number of at least 0"):
        question(height)


def test_costs_without_examples_are_refused():
    bowl = tw.FunctionObjective(lambda t: (t**2).sum(), size=2)
    line = tw.Line(torch.ones(2), torch.zeros(2))
    with pytest.raises(TypeError, match="a mean over examples; got FunctionObjective"):
        tw.profile(bowl, line, estimate=tw.Subsample())


def test_policies_that_tie_examples_together_are_refused():
    def normalised():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))

    x, y = plain().x, plain().y
    model = seeded(normalised, 1)
    line = tw.Line(
        *[nn.utils.parameters_to_vector(model.parameters()).detach() + s for s in (0, 1)]
    )

    def cost(**options):
        return tw.ModelObjective(model, nn.CrossEntropyLoss(), (x, y), **options)

    for policy in ("recalibrate", "batch"):
        with pytest.raises(ValueError, match=f"under batch_norm='{policy}' it does"):
            tw.profile(cost(batch_norm=policy), line, estimate=tw.Subsample())
    masks = tw.MonteCarlo(2, seed=0)
    with pytest.raises(ValueError, match="under dropout=MonteCarlo"):
        tw.profile(cost(batch_norm="stored", dropout=masks), line, estimate=tw.Subsample())
    how = tw.Subsample(100, groups=20)
    stored = tw.profile(cost(batch_norm="stored"), line, ALPHA, estimate=how, progress=False)
    exact = tw.profile(cost(batch_norm="stored"), line, ALPHA, progress=False)
    away = np.abs(stored.loss["train"] - exact.loss["train"])
    assert (away <= stored.estimate.half_width + 1e-12).all()


def test_batches_of_several_shapes_are_refused():
    batches = [(normal(4, n, 4, seed=n), classes(4, count=3, seed=n)) for n in (3, 5)]
    examples = [(x, int(label)) for xs, ys in batches for x, label in zip(xs, ys, strict=True)]
    loader = torch.utils.data.DataLoader(examples, batch_size=4)
    objective = tw.ModelObjective(seeded(Recurrent, 1), nn.CrossEntropyLoss(), loader)
    end = objective.space.flatten(seeded(Recurrent, 2))
    with pytest.raises(ValueError, match="of 'train' differ in shape"):
        tw.profile(objective, tw.Line(end, end + 1), estimate=tw.Subsample())


def test_examples_that_do_not_count_are_not_enough():
    """Where but one label is not ignored, the first looks may have no term."""
    problem = plain()
    y = torch.full_like(problem.y, -100)
    order = np.random.default_rng(3).permutation(EXAMPLES)
    y[order[150]] = 1
    problem.objective = tw.ModelObjective(
        seeded(perceptron, 1), nn.CrossEntropyLoss(), (problem.x, y)
    )
    with pytest.raises(ValueError, match="the 100 examples drawn have none"):
        problem.estimate()
    told = problem.estimate(GRID, question=tw.BarrierAbove(0.3)).estimate
    assert told.examples >= 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"examples": 49}, "as many examples as groups; got 49 examples and 50 groups"),
        ({"groups": 19}, "needs 20 groups at least"),
        ({"seed": -1}, "`seed` must be 0 or more; got -1"),
        ({"nodes": 1}, "0, or 2 to 20 exact points; got 1"),
        ({"nodes": 21}, "0, or 2 to 20 exact points; got 21"),
        ({"confidence": 1.0}, "between 0 and 1; got 1.0"),
        ({"confidence": 0.0}, "between 0 and 1; got 0.0"),
    ],
)
def test_bad_subsamples_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        tw.Subsample(**options)


def test_a_number_is_no_question():
    with pytest.raises(TypeError, match="`question` is a `BarrierAbove` or a `ClimbAbove`; got f"):
        tw.Subsample(question=0.01)
