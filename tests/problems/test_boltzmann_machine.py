import itertools
import math
from dataclasses import replace

import pytest
import torch

from thalweg.problems.boltzmann_machine import MPDBM, BoltzmannMachine, random_masks


def machine(scale=1.0, pixels=3, hidden=(2, 2), labels=2, iterations=14, seed=0):
    """A tiny machine with dense random weights and biases, in float64."""
    recipe = replace(MPDBM, hidden=hidden, iterations=iterations, norm_limits=None)
    made = BoltzmannMachine(recipe, torch.full((pixels,), 0.4), labels=labels, seed=seed).double()
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            size = scale if name.startswith("w") else 0.5
            parameter.copy_(size * torch.randn(parameter.shape, generator=draw).double())
    return made


def by_loops(made, v, y, pixel_mask, label_mask):
    """Mean field of one example, unit by unit."""
    w1, w2, w3 = made.w1.tolist(), made.w2.tolist(), made.w3.tolist()
    b, c1, c2, d = made.b.tolist(), made.c1.tolist(), made.c2.tolist(), made.d.tolist()

    def s(x):
        return 1 / (1 + math.exp(-x))

    def soft(values):
        total = sum(math.exp(x) for x in values)
        return [math.exp(x) / total for x in values]

    def shown(predicted, pixels):
        return [m * p + (1 - m) * x for m, p, x in zip(pixel_mask, predicted, pixels, strict=True)]

    def up2(h1, label):
        return [
            s(
                sum(w2[k][j] * h1[j] for j in range(len(h1)))
                + sum(label[c] * w3[c][k] for c in range(len(label)))
                + c2[k]
            )
            for k in range(len(c2))
        ]

    vh = shown([s(x) for x in b], v)
    h1 = [s(2 * sum(w1[j][i] * vh[i] for i in range(len(vh))) + c1[j]) for j in range(len(c1))]
    label = [label_mask * p + (1 - label_mask) * t for p, t in zip(soft(d), y, strict=True)]
    h2 = up2(h1, label)
    for _ in range(made.iterations - 1):
        h1 = [
            s(
                sum(w1[j][i] * vh[i] for i in range(len(vh)))
                + sum(w2[k][j] * h2[k] for k in range(len(h2)))
                + c1[j]
            )
            for j in range(len(c1))
        ]
        label_logits = [sum(w3[c][k] * h2[k] for k in range(len(h2))) + d[c] for c in range(len(d))]
        label = [
            label_mask * p + (1 - label_mask) * t
            for p, t in zip(soft(label_logits), y, strict=True)
        ]
        logits = [sum(w1[j][i] * h1[j] for j in range(len(h1))) + b[i] for i in range(len(b))]
        vh = shown([s(x) for x in logits], v)
        h2 = up2(h1, label)
    return logits, label_logits


def test_the_published_machine_has_its_size():
    made = BoltzmannMachine(MPDBM, torch.full((784,), 0.1), seed=0)
    assert sum(p.numel() for p in made.parameters()) == 8_352_689
    assert ((made.w1 != 0).sum(1) == 15).all()
    assert ((made.w3 != 0).sum(1) == 23).all()
    assert made.w2.abs().max().item() <= 0.00638830865761 * (1 + 1e-6)
    assert float(made.b[0].detach()) == pytest.approx(math.log(0.1 / 0.9))
    assert float(made.c1[0].detach()) == pytest.approx(-0.710467)
    assert float(made.c2[0].detach()) == pytest.approx(-0.393587)
    norms = made.w1.detach().norm(dim=1)  # before training they are projected to 1.81
    assert float(norms.mean()) == pytest.approx(math.sqrt(15), rel=0.05)


def test_pixels_that_are_never_on_have_a_finite_bias():
    made = BoltzmannMachine(replace(MPDBM, hidden=(2, 2)), torch.tensor([0.0, 1.0]), seed=0)
    assert float(made.b[0].detach()) == pytest.approx(math.log(1e-7), rel=1e-3)
    assert bool(torch.isfinite(made.b).all())


@pytest.mark.parametrize("iterations", [2, 5])
@pytest.mark.parametrize("masks", [((1, 0, 1), 1), ((0, 0, 0), 1), ((1, 1, 1), 0)])
def test_mean_field_agrees_with_loops(masks, iterations):
    made = machine(iterations=iterations, hidden=(4, 3), labels=3)
    v = torch.tensor([[1.0, 0.3, 0.0]], dtype=torch.float64)
    y = torch.tensor([[0.0, 1.0, 0.0]]).double()
    pixel_mask, label_mask = torch.tensor([masks[0]]).double(), torch.tensor([[masks[1]]]).double()
    found = made.infer(v, y, pixel_mask, label_mask)
    expected = by_loops(made, v[0].tolist(), y[0].tolist(), masks[0], masks[1])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(
            ours[0], torch.tensor(theirs, dtype=torch.float64), atol=1e-13, rtol=0
        )


def test_masked_values_are_not_looked_at():
    made = machine()
    y, other = torch.eye(2)[:1].double(), torch.eye(2)[1:].double()
    mask = torch.tensor([[1.0, 0.0, 1.0]]).double()
    v = torch.tensor([[1.0, 1.0, 0.0]]).double()
    changed = torch.tensor([[0.0, 1.0, 1.0]]).double()
    hidden = torch.ones(1, 1).double()
    for a, b in zip(
        made.infer(v, y, mask, hidden), made.infer(changed, other, mask, hidden), strict=True
    ):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    seen = made.infer(v, y, torch.zeros_like(mask), hidden)[1]
    assert not torch.equal(seen, made.infer(changed, y, torch.zeros_like(mask), hidden)[1])


def test_the_criterion_counts_what_is_masked_alone():
    made = machine().requires_grad_(False)
    v, labels = torch.tensor([[1.0, 0.0, 1.0]]).double(), torch.tensor([1])
    mask, hidden = torch.tensor([[1.0, 0.0, 0.0]]).double(), torch.ones(1, 1).double()
    pixels, label = made.infer(v, torch.eye(2)[1:].double(), mask, hidden)
    expected = -torch.log(torch.sigmoid(pixels[0, 0])) - torch.log_softmax(label[0], 0)[1]
    found = made.criterion(v, labels, mask, hidden)
    assert float(found[0]) == pytest.approx(float(expected) / 3, abs=1e-14)
    nothing = made.criterion(v, labels, torch.zeros_like(mask), torch.zeros_like(hidden))
    assert float(nothing[0]) == 0


def exact_terms(made, v, label, mask, hidden):
    """−log p of each masked variable given what is seen, by summing over all other states."""
    pixels, labels = v.shape[1], made.labels
    bits = [torch.tensor(x).double() for x in itertools.product((0.0, 1.0), repeat=pixels)]
    lower = [torch.tensor(x).double() for x in itertools.product((0.0, 1.0), repeat=len(made.c1))]
    upper = [torch.tensor(x).double() for x in itertools.product((0.0, 1.0), repeat=len(made.c2))]
    weights = []
    for x, h1, h2, y in itertools.product(bits, lower, upper, torch.eye(labels).double()):
        fits = all(m or a == b for a, b, m in zip(x, v[0], mask[0], strict=True))
        if fits and (hidden or int(y.argmax()) == label):
            energy = made.energy(x[None], h1[None], h2[None], y[None])
            weights.append((x, int(y.argmax()), math.exp(-float(energy))))
    total = sum(weight for *_, weight in weights)
    terms = 0.0
    for i in range(pixels):
        if mask[0, i]:
            terms -= math.log(sum(w for x, _, w in weights if x[i] == v[0, i]) / total)
    if hidden:
        terms -= math.log(sum(w for _, y, w in weights if y == label) / total)
    return terms / pixels


def test_the_criterion_is_exact_without_coupling_and_nearly_so_with_little():
    v = torch.tensor([[1.0, 0.0, 1.0]]).double()
    mask = torch.tensor([[1.0, 1.0, 0.0]]).double()
    away = []
    for scale in (0.0, 0.05, 0.1, 0.2):
        made = machine(scale).requires_grad_(False)
        found = float(made.criterion(v, torch.tensor([1]), mask, torch.ones(1, 1).double()))
        away.append(abs(found - exact_terms(made, v, 1, mask, True)))
    assert away[0] < 1e-14
    # Mean field leaves out correlations, which are of second order in the weights.
    assert away[1] < away[2] / 3 < away[3] / 9
    assert away[1] < 1e-3


def test_gradients_flow_through_all_iterations_but_not_by_the_first_guess():
    made = machine()
    v, y = torch.tensor([[1.0, 0.0, 1.0]]).double(), torch.tensor([1])
    mask, hidden = torch.tensor([[1.0, 0.0, 1.0]]).double(), torch.ones(1, 1).double()
    theta = dict(made.named_parameters())
    value = made.criterion(v, y, mask, hidden).sum()
    gradients = dict(zip(theta, torch.autograd.grad(value, list(theta.values())), strict=True))
    for name in ("w1", "w2", "w3", "c1", "c2", "d"):
        parameter, step = theta[name], 1e-6
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                parameter.add_(sign * step * direction)
                values.append(float(made.criterion(v, y, mask, hidden).sum()))
                parameter.sub_(sign * step * direction)
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float((gradients[name] * direction).sum()), abs=1e-8)


def test_multi_inference_is_an_average_of_inferences():
    made = machine(scale=1e-9)  # nothing is coupled: both ways see the bias of the label alone
    v = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(made.classify(v), made.classify(v, multi_inference=True))
    coupled = machine(scale=2.0)
    assert not torch.allclose(coupled.classify(v), coupled.classify(v, multi_inference=True))


def test_masks_are_fair_and_seeded():
    v = torch.zeros(2000, 5)
    pixels, label = random_masks(v, torch.Generator().manual_seed(0))
    assert float(pixels.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(label.mean()) == pytest.approx(0.5, abs=0.04)
    assert torch.equal(pixels, random_masks(v, torch.Generator().manual_seed(0))[0])


def test_a_recipe_needs_two_layers_and_two_iterations():
    with pytest.raises(ValueError, match="`iterations` must be at least 2; got 1"):
        replace(MPDBM, iterations=1)
    with pytest.raises(ValueError, match="two layers"):
        replace(MPDBM, hidden=(3,))
    with pytest.raises(ValueError, match="`norm_limits` must have one entry for each of 3"):
        replace(MPDBM, norm_limits=(1.0,))
