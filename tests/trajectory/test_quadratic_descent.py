import numpy as np
import pytest
import torch

from cases import normal
from thalweg.trajectory.quadratic_descent import quadratic_descent

CURVATURE = torch.tensor([1.0, 0.3, 0.05, 0.01], dtype=torch.float64)
SOLUTION = 1 + normal(4, seed=1)


def points_of(run):
    return torch.stack([point.clone() for point in run.stream()])


@pytest.mark.parametrize("rate", [0.1, 1.0, 1.9])
def test_without_momentum_it_is_the_closed_form(rate):
    run = quadratic_descent(CURVATURE, SOLUTION, learning_rate=rate, steps=40)
    t = torch.arange(41, dtype=torch.float64)[:, None]
    expected = (1 - (1 - rate * CURVATURE) ** t) * SOLUTION
    torch.testing.assert_close(points_of(run), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(run.learning_rate, rate)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_it_is_what_torch_does(momentum):
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.7, momentum=momentum)
    run = quadratic_descent(CURVATURE, SOLUTION, learning_rate=0.7, momentum=momentum, steps=25)
    for point in run.stream():
        torch.testing.assert_close(point, theta.detach(), rtol=1e-12, atol=1e-14)
        optimizer.zero_grad()
        (0.5 * CURVATURE * (theta - SOLUTION) ** 2).sum().backward()
        optimizer.step()


def test_any_point_is_the_same_whenever_it_is_read():
    run = quadratic_descent(CURVATURE, SOLUTION, learning_rate=1.0, momentum=0.9, steps=12)
    points = points_of(run)
    for index in (12, 0, 5, 5):
        assert torch.equal(run[index].theta, points[index])


def test_vectors_must_fit():
    with pytest.raises(ValueError, match=r"shapes \(4,\) and \(3,\) .*two vectors of one length"):
        quadratic_descent(CURVATURE, SOLUTION[:3], learning_rate=1.0)
    with pytest.raises(ValueError, match="steps=-1"):
        quadratic_descent(CURVATURE, SOLUTION, learning_rate=1.0, steps=-1)
