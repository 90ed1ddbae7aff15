"""Draws one picture an obstacle from small examples: `python docs/obstacles_pictures.py`.

Above is what one sees in a log, the cost over the steps; below is what is there. Both are computed
from the closed forms of `thalweg.functions`, or from a network of a few units.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import thalweg as tw
from thalweg.figures import Axis, Curve, Figure, Map, Marker, Panel
from thalweg.figures.draw import render
from thalweg.results import OBSTACLES

TARGET = Path(__file__).parent / "images" / "obstacles"
COLOURS = 96  # so that a picture is small
WIDTH = 800  # pixels


def vector(*values):
    """Return a point in float64."""
    return torch.tensor(values, dtype=torch.float64)


def descend(objective, start, rate, steps, noise=0.0, seed=0, most=1e6):
    """Return points and costs of gradient descent, with Gaussian noise on the gradient."""
    generator = torch.Generator().manual_seed(seed)
    theta, points, costs = start.clone(), [], []
    for _ in range(steps + 1):
        points.append(theta)
        costs.append(objective.value(theta))
        if not costs[-1] < most:
            break
        wobble = torch.randn(len(theta), generator=generator, dtype=theta.dtype)
        theta = theta - rate * (objective.gradient(theta) + noise * wobble)
    return torch.stack(points).numpy(), np.array(costs)


def course(log=False, floor=None, label="cost J", **runs):
    """Return the panel of the cost over the steps."""
    curves = [
        Curve(np.arange(len(costs), dtype=float), costs, name.replace("_", " "), rank)
        for rank, (name, costs) in enumerate(runs.items())
    ]
    steps = max(len(costs) for costs in runs.values()) - 1
    if floor is not None:
        level = np.full(2, float(floor))
        curves.append(Curve(np.array([0.0, steps]), level, "floor", len(runs)))
    x = Axis("step", limits=(0.0, float(steps)))
    return Panel(x, Axis(label, log), tuple(curves), height=0.62)


def plane(objective, points, x, y, log=False, line=None):
    """Return a map of a cost of two variables with a run on it."""
    across, up = np.meshgrid(np.linspace(*x, 81), np.linspace(*y, 81))
    values = np.array(
        [objective.value(vector(a, b)) for a, b in zip(across.ravel(), up.ravel(), strict=True)]
    ).reshape(across.shape)
    curves = [Curve(points[:, 0], points[:, 1], "run", dots=len(points) < 40)]
    if line is not None:
        curves.append(Curve(line[:, 0], line[:, 1], "line", 1))
    markers = (Marker("start", *points[0]), Marker("end", *points[-1]))
    scene = Map(across, up, values, "cost J", log=log, equal=False)
    return Panel(Axis("θ₁"), Axis("θ₂"), tuple(curves), markers=markers, map=scene)


def line(objective, points, low, high, axis=0, log=False, label="θ"):
    """Return the cost of one variable with a run on it."""
    where = np.linspace(low, high, 401)
    base = torch.as_tensor(points[0])
    costs = []
    for value in where:
        theta = base.clone()
        theta[axis] = value
        costs.append(objective.value(theta))
    seen = [objective.value(torch.as_tensor(point)) for point in points]
    curves = (
        Curve(points[:, axis], np.array(seen), "run", dots=True),
        Curve(where, np.array(costs), "cost", 1),
    )
    return Panel(Axis(label, limits=(low, high)), Axis("cost J", log), curves, height=0.8)


def step_too_large():
    """Steps beyond 2/λ_max = 1/3: each jumps to the other wall, higher up."""
    bowl = tw.functions.bowl(at=(0.5, 0.2))
    points, costs = descend(bowl, vector(-1.5, 0.3), 0.345, 24)
    _, half = descend(bowl, vector(-1.5, 0.3), 0.17, 24)
    return course(log=True, run=costs, half_the_step=half), plane(bowl, points, (-2, 1), (-1, 1.4))


def exploding_gradient():
    """A product of ten equal weights: a flat floor beside a cliff that throws the run back."""
    chain = tw.FunctionObjective(lambda t: (1 - t[0] ** 10) ** 2, size=1)
    points, costs = descend(chain, vector(1.06), 0.012, 14)
    where = line(chain, points, -0.2, 1.3, log=True, label="weight (ten layers share it)")
    return course(log=True, run=costs), where


def vanishing_gradient():
    """Eight layers of sigmoids: what reaches the first layers is a millionth."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 8, dtype=torch.float64) for _ in range(8)]
    parts = [part for layer in layers for part in (layer, torch.nn.Sigmoid())]
    model = torch.nn.Sequential(*parts, torch.nn.Linear(8, 2, dtype=torch.float64))
    x = torch.randn(64, 8, dtype=torch.float64)
    data = (x, (x[:, 0] > 0).long())
    cost = tw.ModelObjective(model, torch.nn.CrossEntropyLoss(), data, dtype=torch.float64)
    points, costs = descend(cost, cost.space.flatten(model), 0.5, 60)
    gradient = cost.space.unflatten(cost.gradient(torch.as_tensor(points[0])))
    norms = [float(value.norm()) for name, value in gradient.items() if "weight" in name]
    depth = np.arange(1.0, len(norms) + 1)
    sizes = Panel(
        Axis("layer (9 = output)", limits=(1.0, 9.0)),
        Axis("norm of its gradient", log=True),
        (Curve(depth, np.array(norms), "gradient", dots=True),),
        height=0.8,
    )
    return course(run=costs, floor=0.0), sizes


def dead_units():
    """A rectified unit that is off for all examples: no slope says which way to go."""
    x = torch.linspace(0.1, 1.0, 20, dtype=torch.float64)
    target = x + 0.2
    unit = tw.FunctionObjective(lambda t: ((torch.relu(x + t[0]) - target) ** 2).mean(), size=1)
    points, costs = descend(unit, vector(1.2), 1.3, 12)
    return course(run=costs, floor=0.0), line(unit, points, -2.0, 1.4, label="bias of the unit")


def gradient_noise():
    """Noise keeps the run at a level that the same steps without noise go through at once."""
    bowl = tw.functions.bowl(at=(0.5, -0.2))
    points, costs = descend(bowl, vector(-1.5, 0.8), 0.1, 120, noise=2.0)
    _, quiet = descend(bowl, vector(-1.5, 0.8), 0.1, 40)
    return (
        course(log=True, run=costs, no_noise=quiet),
        plane(bowl, points, (-1.8, 1.6), (-1.2, 1.2)),
    )


def step_too_small():
    """All descent and no curvature: a hundred steps, a tenth of the way."""
    bowl = tw.functions.bowl(at=(0.5, -0.2))
    points, costs = descend(bowl, vector(-1.5, 0.8), 0.0008, 100)
    _, larger = descend(bowl, vector(-1.5, 0.8), 0.1, 100)
    return course(run=costs, larger=larger), plane(bowl, points, (-1.8, 1.2), (-1.1, 1.2))


def ill_conditioning():
    """A canyon: the walls set the largest step, and the floor is far too flat for it."""
    hessian, start = torch.diag(vector(1.0, 100.0)), vector(-2.0, 0.5)
    canyon = tw.functions.quadratic(hessian, centre=vector(2.0, 0.0))
    points, costs = descend(canyon, start, 0.0193, 60)
    step = torch.linalg.solve(hessian, canyon.gradient(start))
    newton = np.array([costs[0], *[canyon.value(start - step)] * 60])
    return course(run=costs, Newton=newton), plane(canyon, points, (-2.5, 2.5), (-0.7, 0.7))


def saddle_point():
    """Drawn to a saddle along one axis, slow to leave it along the other."""
    form = tw.functions.attractive_saddle()
    points, costs = descend(form, vector(1.5, 0.001), 0.25, 45)
    return course(run=costs, floor=-0.25), plane(form, points, (-0.8, 1.7), (-0.6, 1.3))


def plateau():
    """A terrace: hardly any slope, no curvature, and a way to go."""
    form = tw.functions.terraces()
    points, costs = descend(form, vector(-0.35, 0.9), 0.15, 120)
    return course(run=costs, floor=-2.0), plane(form, points, (-2, 2), (-1.2, 1.2))


def local_minimum():
    """The bottom of a bowl, well above that of another one."""
    form = tw.functions.many_minima()
    points, costs = descend(form, vector(1.9, 1.8), 0.04, 50)
    lowest = min(
        descend(form, vector(a, b), 0.04, 200)[1][-1]
        for a in np.linspace(-2, 2, 7)
        for b in np.linspace(-2, 2, 7)
    )
    return course(run=costs, floor=lowest), plane(form, points, (-2.4, 2.4), (-2.4, 2.4))


def barrier():
    """On the straight line from the end of the run to a better point the cost climbs."""
    form = tw.functions.many_minima()
    points, costs = descend(form, vector(1.9, 1.8), 0.04, 50)
    better, lower = min(
        (
            descend(form, vector(a, b), 0.04, 200)
            for a in np.linspace(-2, 2, 7)
            for b in np.linspace(-2, 2, 7)
        ),
        key=lambda run: run[1][-1],
    )
    ends = tw.Line(torch.as_tensor(points[-1]), torch.as_tensor(better[-1]))
    found = tw.profile(form, ends, tw.Uniform(0, 1, 101), progress=False)
    panel = Panel(
        Axis("α (0 = end of the run, 1 = better point)", limits=(0.0, 1.0)),
        Axis("cost J"),
        (Curve(found.alpha, found.loss[found.first_split], "cost"),),
        height=0.8,
    )
    return course(run=costs, floor=lower[-1]), panel


def detour():
    """A bent valley: the run follows it, the straight line would climb over its wall."""
    form = tw.FunctionObjective(lambda t: (1 - t[0]) ** 2 / 4 + 8 * (t[1] - t[0] ** 2) ** 2, 2)
    points, costs = descend(form, vector(-1.3, 1.7), 0.012, 900)
    chord = np.stack([points[0], points[-1]])
    return course(run=costs, log=True), plane(
        form, points, (-1.7, 1.4), (-0.5, 2.2), log=True, line=chord
    )


def no_critical_point():
    """The infimum is not attained: the cost falls for ever, and the parameters grow."""
    form = tw.functions.separable_logistic()
    start = torch.full((form.space.size,), 0.1, dtype=torch.float64)
    points, costs = descend(form, start, 1.0, 400)
    norms = np.linalg.norm(points, axis=1)
    steps = np.arange(len(norms), dtype=float)
    panel = Panel(
        Axis("step", limits=(0.0, float(len(norms) - 1))),
        Axis("norm of the parameters"),
        (Curve(steps, norms, "norm"),),
        height=0.8,
    )
    return course(log=True, run=costs), panel


def overfitting():
    """A polynomial of degree 11 and 12 noisy points: what is learned last is the noise."""
    generator = torch.Generator().manual_seed(1)

    def draw(count):
        x = 2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1
        y = torch.sin(3 * x) + 0.5 * torch.randn(count, generator=generator, dtype=torch.float64)
        powers = torch.cos(torch.arange(12) * torch.arccos(x)[:, None])  # Chebyshev polynomials
        return powers, y[:, None]

    model = torch.nn.Linear(12, 1, bias=False, dtype=torch.float64)
    data = {"train": draw(12), "valid": draw(200)}
    cost = tw.ModelObjective(model, torch.nn.MSELoss(), data, dtype=torch.float64)
    points, _ = descend(cost, torch.zeros(12, dtype=torch.float64), 0.15, 300)
    both = [cost.evaluate(torch.as_tensor(point)).loss for point in points]
    train, valid = (np.array([float(each[name]) for each in both]) for name in data)
    ends = tw.Line(torch.as_tensor(points[0]), torch.as_tensor(points[-1]))
    found = tw.profile(cost, ends, tw.Uniform(0, 1, 51), progress=False)
    panel = Panel(
        Axis("α (0 = start, 1 = end of the run)", limits=(0.0, 1.0)),
        Axis("cost J"),
        tuple(Curve(found.alpha, v, name, k) for k, (name, v) in enumerate(found.loss.items())),
        height=0.8,
    )
    return course(train=train, valid=valid), panel


def write(key, target):
    """Draw the picture of one obstacle."""
    above, below = globals()[key]()
    title = OBSTACLES[key][:1].upper() + OBSTACLES[key][1:]
    drawn = render(Figure(title, "", ((above,), (below,))), "png")
    picture = Image.open(io.BytesIO(drawn)).convert("RGB")
    height = round(picture.height * WIDTH / picture.width)
    small = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    path = target / f"{key.replace('_', '-')}.png"
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


if __name__ == "__main__":
    import sys

    TARGET.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or OBSTACLES:
        made = write(name, TARGET)
        print(made.name, made.stat().st_size)
