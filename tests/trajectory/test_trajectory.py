import pytest
import torch

import thalweg as tw
from cases import normal


def test_points_are_numbered_from_both_ends():
    points = normal(3, 4)
    trajectory = tw.Trajectory.from_points(points)
    assert torch.equal(trajectory[-1].theta, points[2])
    assert [point.step for point in trajectory] == [0, 1, 2]
    assert trajectory[torch.tensor(1)].step == 1


@pytest.mark.parametrize("index", [slice(0, None, 2), 0.5, "last"])
def test_a_trajectory_is_asked_for_one_point(index):
    with pytest.raises(TypeError, match=r"asked for one point by its number; got .*Write"):
        tw.Trajectory.from_points(normal(3, 4))[index]


@pytest.mark.parametrize("index", [3, -4])
def test_a_point_that_there_is_not(index):
    with pytest.raises(IndexError, match=rf"has 3 points; got the number {index}\."):
        tw.Trajectory.from_points(normal(3, 4))[index]


@pytest.mark.parametrize(
    ("points", "came"),
    [
        ([], r"got shape \(0,\)"),
        ([torch.nn.Linear(2, 1)] * 2, r"got Linear.*flatten"),
        ([torch.zeros(2), torch.zeros(3)], r"got \(2,\) and \(3,\)"),
        (torch.zeros(5), r"got shape \(5,\)"),
        ([torch.zeros(2, 2)], r"got shape \(1, 2, 2\)"),
    ],
)
def test_points_are_vectors_of_one_size(points, came):
    with pytest.raises(ValueError, match=came):
        tw.Trajectory.from_points(points)


def test_a_long_log_is_shown_in_a_word(tmp_path):
    model = torch.nn.Linear(2, 1)
    with tw.Recorder(tmp_path, model) as recorder:
        for _ in range(3):
            recorder.step(loss=1.0)
    assert repr(tw.Trajectory.open(tmp_path).log) == "StepLog(3 steps)"


def test_a_section_is_made_of_what_a_point_holds():
    trajectory = tw.Trajectory.from_points(normal(3, 4))
    with pytest.raises(TypeError, match=r"got TrajectoryPoint\. Pass its `theta`\."):
        tw.Line(trajectory[0], trajectory[-1])
