import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.diagnosis.following import follows
from thalweg.results import OBSTACLES
from thalweg.studies.further_problems import further_functions
from thalweg.studies.mixed_problems import mixed_functions
from thalweg.studies.planted_networks import (
    NetworkSetting,
    all_digits,
    perceptron,
    planted_networks,
    trained,
)
from thalweg.studies.planted_problems import planted_functions
from thalweg.studies.varied_problems import varied_functions

FUNCTIONS = {case.name: case for case in planted_functions(few=True)}
NETWORKS = [case.name for case in planted_networks(few=True, folder=Path("none"))][:3]


@pytest.fixture
def networks(tmp_path):
    return {case.name: case for case in planted_networks(few=True, folder=tmp_path)}


def diagnosed(planted, **settings):
    return tw.diagnose(
        planted.objective,
        planted.trajectory,
        reference=planted.reference,
        floor=planted.floor,
        progress=False,
        **settings,
    )


def expect_cause(diagnosis, case):
    """Raise unless the planted cause is primary and nothing is called present that is absent."""
    wrong = {each.obstacle for each in diagnosis.present} - {case.planted, *case.also}
    if diagnosis.primary != case.planted or wrong:
        raise AssertionError(
            f"{case.name}: {case.planted} is planted; got {diagnosis.primary}, wrongly {wrong}.\n"
            f"{diagnosis}"
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_planted_in_closed_forms_is_found(name):
    expect_cause(diagnosed(FUNCTIONS[name].make()), FUNCTIONS[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_planted_in_networks_is_found(name, networks):
    expect_cause(diagnosed(networks[name].make()), networks[name])


def test_the_check_fails_for_another_cause():
    names = list(FUNCTIONS)
    found = diagnosed(FUNCTIONS[names[0]].make())
    with pytest.raises(AssertionError, match="is planted; got ill_conditioning"):
        expect_cause(found, FUNCTIONS[names[2]])


def bowl(size=12):
    values = torch.linspace(0.2, 1.0, size, dtype=torch.float64)
    return tw.FunctionObjective(lambda t: 0.5 * (values * (t - 1) ** 2).sum(), size=size)


def random_points(steps=60, size=12, seed=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(steps, size, generator=draw, dtype=torch.float64)


STEPS = (
    *("gradient_noise", "step_too_small", "step_too_large", "ill_conditioning", "saddle_point"),
    *("plateau", "local_minimum", "detour", "no_critical_point"),
)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.1, None])
def test_a_random_walk_gives_no_verdict_on_steps_or_path(seed, rate):
    walk = torch.cumsum(0.1 * random_points(seed=seed), 0)
    found = tw.diagnose(bowl(), tw.Trajectory.from_points(walk, learning_rate=rate), progress=False)
    assert {found[key].verdict for key in STEPS} == {"undetermined"}
    assert found.primary is None


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_snapshots_give_no_verdict_on_steps_or_path(seed):
    cost, theta, points = bowl(), random_points()[0] * 3, []
    for _ in range(60):
        points.append(theta)
        theta = theta - 0.05 * cost.gradient(theta)
    order = np.random.default_rng(seed).permutation(60)
    shuffled = tw.Trajectory.from_points([points[i] for i in order], learning_rate=0.05)
    found = tw.diagnose(cost, shuffled, progress=False)
    assert {found[key].verdict for key in STEPS} == {"undetermined"}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "seed 0" in name][:8])
def test_units_of_cost_do_not_matter(name):
    planted = FUNCTIONS[name].make()
    other = tw.FunctionObjective(
        lambda t: 100 * planted.objective.f(t) + 7, size=planted.objective.space.size
    )
    rates = planted.trajectory.learning_rate / 100
    points = [point.theta for point in planted.trajectory]
    found = tw.diagnose(
        other,
        tw.Trajectory.from_points(points, learning_rate=rates),
        reference=planted.reference,
        floor=None if planted.floor is None else 100 * planted.floor + 7,
        progress=False,
    )
    before = diagnosed(planted)
    assert {k: f.verdict for k, f in found.findings.items()} == {
        k: f.verdict for k, f in before.findings.items()
    }
    for key in OBSTACLES:
        if before[key].verdict == "present":
            assert found[key].severity == pytest.approx(before[key].severity, rel=0.02, abs=1e-3)


def test_one_and_two_points_are_too_few():
    one = tw.Trajectory.from_points(random_points()[:1], learning_rate=0.1)
    found = tw.diagnose(bowl(), one, progress=False)
    assert found.primary is None
    assert found["gradient_noise"].verdict == "undetermined"
    assert "make no stretch" in found["ill_conditioning"].evidence[0].text
    two = tw.Trajectory.from_points(random_points()[:2], learning_rate=0.1)
    assert tw.diagnose(bowl(), two, progress=False).primary is None


def test_divergence_to_infinity_is_a_step_that_is_too_large():
    theta, points = random_points()[0], []
    cost = tw.FunctionObjective(lambda t: (t**4).sum() + (t**2).sum(), size=12)
    while bool(torch.isfinite(theta).all()):
        points.append(theta)
        theta = theta - 1.5 * cost.gradient(theta)
    points.append(theta)
    assert not bool(torch.isfinite(torch.stack(points)).all())
    found = tw.diagnose(cost, tw.Trajectory.from_points(points, learning_rate=1.5), progress=False)
    assert found.primary == "step_too_large"
    assert found.loss[-1] == math.inf


def test_momentum_that_nobody_told_of_is_found():
    theta, speed, points = random_points()[0], torch.zeros(12, dtype=torch.float64), []
    for _ in range(40):
        points.append(theta)
        speed = 0.8 * speed - 0.1 * bowl().gradient(theta)
        theta = theta + speed
    run = tw.Trajectory.from_points(points)
    found = follows(bowl(), run, range(40))
    assert found.exact
    assert (found.momentum, found.pull) == (pytest.approx(0.8), pytest.approx(0.1))


def test_bad_input_is_refused():
    run = tw.Trajectory.from_points(random_points(), learning_rate=0.1)
    with pytest.raises(ValueError, match="A floor is a finite cost; got nan"):
        tw.diagnose(bowl(), run, floor=float("nan"))
    with pytest.raises(tw.ParameterMismatchError, match="must have shape"):
        tw.diagnose(bowl(), run, reference=torch.zeros(3))
    with pytest.raises(TypeError, match="objective"):
        tw.diagnose(nn.Linear(2, 1), run)


def _killed(recorder, **said):
    raise KeyboardInterrupt("killed")


def test_a_training_that_was_cut_off_is_begun_again(networks, tmp_path, monkeypatch):
    case = networks[NETWORKS[0]]
    with monkeypatch.context() as patched:
        patched.setattr(tw.Recorder, "step", _killed)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            case.make()
    assert [folder.suffix for folder in tmp_path.iterdir()] == [".unfinished"]
    run = case.make().trajectory
    assert run.step[-1] == len(run.log.loss) == 700
    assert [folder.suffix for folder in tmp_path.iterdir()] == [""]


def test_a_model_is_left_as_it_was(networks):
    planted = networks[NETWORKS[0]].make()
    model = planted.objective.forward_pass.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    diagnosed(planted)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def verdicts(diagnosis):
    return {finding.obstacle: finding.verdict for finding in diagnosis}


def trained_network(tmp_path, kind, **settings):
    """Return a run of a small network, healthy or at a step that is too small, and its model."""
    rate = {"healthy": 0.2, "small step": 2e-4}[kind]
    setting = NetworkSetting(5, 24, "sgd")
    model = perceptron(setting, 1, nn.Tanh)
    steps = 720 if kind == "healthy" else 240
    planted = trained(setting, tmp_path, model, steps, rate=rate, **settings)
    return model, planted


@pytest.mark.parametrize("kind", ["healthy", "small step"])
def test_batches_of_evaluation_and_order_of_examples_do_not_matter(kind, tmp_path):
    model, planted = trained_network(tmp_path / "run", kind)
    images, labels = all_digits()
    (x, y), held_out = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])
    before = diagnosed(planted)
    expected = "step_too_small" if kind == "small step" else None
    assert before.primary == expected
    order = torch.randperm(1400, generator=torch.Generator().manual_seed(1))
    for data, size in (((x, y), 77), ((x[order], y[order]), None)):
        cost = tw.ModelObjective(
            model, nn.CrossEntropyLoss(), {"train": data, "valid": held_out}, batch_size=size
        )
        found = tw.diagnose(cost, planted.trajectory, progress=False)
        assert verdicts(found) == verdicts(before)


@pytest.mark.parametrize("kind", ["healthy", "small step"])
def test_the_number_of_snapshots_does_not_matter(kind, tmp_path):
    found = [
        verdicts(diagnosed(trained_network(tmp_path / str(n), kind, snapshots=n)[1]))
        for n in (12, 24, 60)
    ]
    assert found[0] == found[1] == found[2]


def test_subsamples_are_named_and_all_data_is_used_on_request(tmp_path):
    _, planted = trained_network(tmp_path / "run", "small step")
    some = diagnosed(planted, examples=80)
    assert some.example_counts == {"derivatives": 80, "costs": 80, "held-out costs": 80}
    whole = diagnosed(planted, examples=80, exact=True)
    assert whole.example_counts == {}
    assert some.primary == whole.primary == "step_too_small"
    assert whole.loss[0] == pytest.approx(planted.objective.value(planted.trajectory[0].theta))


def test_rivals_are_ruled_out_with_their_evidence(tmp_path):
    found = diagnosed(trained_network(tmp_path / "run", "small step")[1])
    rivals = found["step_too_small"].rivals
    assert [rival.split(" is ")[0] for rival in rivals] == [
        "Ill-conditioning",
        "Plateau",
        "Vanishing gradient",
    ]
    assert all("is ruled out: " in rival for rival in rivals)
    assert found["gradient_noise"].rivals == ()


class Tied(nn.Module):
    """Reads characters, with one matrix for what goes in and what comes out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.cell = nn.LSTM(16, 16, batch_first=True)
        self.drop = nn.Dropout(0.2)

    def forward(self, tokens):
        hidden, _ = self.cell(self.embedding(tokens))
        return self.drop(hidden) @ self.embedding.weight.T


def normalised():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def frozen():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    model[0].requires_grad_(False)
    return model


def token_loss(output, target):
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


@pytest.mark.parametrize("make", [Tied, normalised, frozen])
def test_networks_of_all_kinds_are_diagnosed(make, tmp_path):
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    if make is Tied:
        x = torch.randint(12, (64, 9), generator=draw)
        y, loss = x.roll(-1, 1), token_loss
    else:
        x = torch.randn(64, 6, generator=draw)
        y, loss = x[:, :3].argmax(1), nn.functional.cross_entropy
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    with (
        torch.random.fork_rng(),
        tw.Recorder(
            tmp_path / "run", model, optimizer, schedule=tw.Every(steps=5), updates=True
        ) as recorder,
    ):
        torch.manual_seed(1)
        for _ in range(60):
            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            recorder.step(loss=value.item(), batch_size=64)
    objective = tw.ModelObjective(model, loss, (x, y))
    found = tw.diagnose(objective, tw.Trajectory.open(tmp_path / "run"), progress=False)
    assert np.isfinite(found.loss).all()
    assert found["exploding_gradient"].verdict == "absent"
    assert found["step_too_large"].verdict != "present"
    assert found["overfitting"].verdict == "undetermined"


def test_a_run_that_does_not_move_is_undetermined():
    theta = 1e17 + random_points()[0]
    run = tw.Trajectory.from_points([theta] * 20, learning_rate=1e-3)
    found = tw.diagnose(bowl(), run, progress=False)
    assert {found[key].verdict for key in STEPS} <= {"undetermined", "absent"}
    assert found.primary is None


def planted(name):
    """Return a planted case by the beginning of its name; exactly one."""
    cases = [*varied_functions(False), *mixed_functions(False), *further_functions(False)]
    (found,) = [case for case in cases if case.name.startswith(name)]
    return found


@pytest.mark.parametrize(
    "name",
    [
        "saturated unit, 18 entries",  # its steps vanish in the rounding of the parameters
        "canyon, 6 entries",  # its floor is concave
        "Rosenbrock, 64 entries",  # Newton's steps must be damped
        "second eigenvector, 8 entries",  # after the escape curvature is positive
        "chained valley, 8 entries",  # curvature is negative, and slopes are steep
    ],
)
def test_what_was_missed_once_is_named(name):
    case = planted(name)
    made = case.make()
    found = diagnosed(made)
    assert found.primary == case.planted
    assert {each.obstacle for each in found.present} <= {case.planted, *case.also}


def test_steps_that_do_not_move_are_not_at_rest_where_they_should_move():
    bowl = tw.FunctionObjective(lambda t: (t - 3).square().sum(), size=2)
    still = torch.ones(30, 2, dtype=torch.float64)
    found = tw.diagnose(bowl, tw.Trajectory.from_points(still, learning_rate=0.1), progress=False)
    assert found["plateau"].verdict == "undetermined"
    assert found.primary is None


def regression(folder, *, every=1, warm_up=0, momentum=0.9):
    """Record a linear regression by gradient descent with momentum; return cost and run."""
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(64, 4, generator=draw, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]], dtype=torch.float64) + 1
    model = nn.Linear(4, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.full((1, 4), 0.3))
        model.bias.fill_(0.1)
    mover = torch.optim.SGD(model.parameters(), lr=0.02, momentum=momentum)
    with tw.Recorder(
        folder, model, mover, schedule=tw.Every(steps=every), updates=True
    ) as recorder:
        for step in range(84):
            mover.param_groups[0]["lr"] = 0.0 if step < warm_up else 0.02
            mover.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            mover.step()
            recorder.step(loss=float(loss.detach()), batch_size=64)
    return tw.ModelObjective(model, nn.MSELoss(), {"train": (x, y)}), tw.Trajectory.open(folder)


def test_a_warm_up_from_a_rate_of_zero_is_diagnosed(tmp_path):
    found = tw.diagnose(*regression(tmp_path / "run", warm_up=10), progress=False)
    assert found["step_too_small"].evidence


def test_stability_does_not_depend_on_how_often_the_run_was_recorded(tmp_path):
    texts = []
    for every in (1, 7):
        found = tw.diagnose(*regression(tmp_path / f"every-{every}", every=every), progress=False)
        (told,) = [e.text for e in found["step_too_large"].evidence if "λ_max" in e.text]
        texts.append(told)
    limits = [text.split("limit ")[1] for text in texts]
    assert limits == ["3.8", "3.8"]
    products = [float(text.split("= ")[1].split(",")[0]) for text in texts]
    assert products[0] == pytest.approx(products[1], rel=1e-6)
