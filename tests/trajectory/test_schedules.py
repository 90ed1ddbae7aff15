import pytest

import thalweg as tw
from thalweg.trajectory.schedules import Moment, Schedule


def steps(schedule, count=1000):
    return [step for step in range(count) if schedule.due(Moment(step))]


def test_every():
    assert steps(tw.Every(steps=250)) == [0, 250, 500, 750]
    assert steps(tw.Every(epochs=1)) == []
    ends = [(step, step / 100) for step in range(100, 1001, 100)]
    due = [step for step, epoch in ends if tw.Every(epochs=3).due(Moment(step, epoch))]
    assert due == [300, 600, 900]


@pytest.mark.parametrize("per_decade", [1, 2, 7, 10, 60])
def test_logarithmic_steps_are_rounded_powers(per_decade):
    expected = {round(10 ** (k / per_decade)) for k in range(5 * per_decade + 1)}
    due = steps(tw.Logarithmic(per_decade), 100_001)
    assert due == sorted(expected)


def test_joined():
    schedule = tw.Every(steps=400) | tw.At(steps=[3, 5]) | tw.Around([500], 1, 2)
    assert steps(schedule) == [0, 3, 5, 400, 499, 500, 501, 502, 800]
    assert isinstance(schedule, Schedule)
    assert schedule == tw.Every(steps=400) | tw.At(steps=(5, 3)) | tw.Around((500,), 1, 2)


def test_around_the_latest_event():
    schedule = tw.Around(after=4, every=2)
    due = [step for step in range(3, 12) if schedule.due(Moment(step, event=3 + 3 * (step > 5)))]
    assert due == [3, 5, 6, 8, 10]
    assert not schedule.due(Moment(5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (tw.Every, "Every needs a whole number of steps or of epochs"),
        (lambda: tw.Every(steps=2, epochs=1), "got steps=2, epochs=1"),
        (lambda: tw.Every(steps=0), "at least 1; got steps=0"),
        (lambda: tw.Every(steps=1.5), "a whole number of steps .* got steps=1.5"),
        (lambda: tw.Logarithmic(0), "at least one snapshot a decade; got per_decade=0"),
        (lambda: tw.Every(steps=2.5), "at least 1; got steps=2.5"),
        (lambda: tw.Every(steps=float("nan")), "at least 1; got steps=nan"),
        (lambda: tw.Every(epochs="1"), "at least 1; got steps=None, epochs=1"),
        (lambda: tw.Logarithmic(float("inf")), "got per_decade=inf"),
        (lambda: tw.Around(after=-1), "counted from 0"),
        (lambda: tw.Around(every=0), "every=0"),
    ],
)
def test_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
