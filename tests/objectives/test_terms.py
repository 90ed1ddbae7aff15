from types import SimpleNamespace

import pytest
import torch

from cases import normal
from thalweg.objectives.terms import prediction, split_batch, target_of

LOGITS = normal(4, 3, seed=1)


def test_split_batch():
    x, y, z = torch.ones(2), torch.zeros(2), torch.full((2,), 2.0)
    assert split_batch((x, y)) == ((x,), {}, y)
    assert split_batch((x, y, z)) == ((x, y), {}, z)
    assert split_batch(x) == ((x,), {}, x)
    assert split_batch((x,)) == ((x,), {}, x)
    assert split_batch(((x, y), z)) == ((x, y), {}, z)
    assert split_batch(({"a": x}, z)) == ((), {"a": x}, z)
    for key in ("labels", "label", "targets", "target", "y"):
        assert split_batch({"a": x, key: y}) == ((), {"a": x}, y)
    assert split_batch({"a": x}) == ((), {"a": x}, None)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"logits": LOGITS, "loss": torch.ones(())},
        {"out": LOGITS},
        SimpleNamespace(logits=LOGITS),
        (LOGITS, "state"),
        [LOGITS],
    ],
)
def test_the_prediction_of_an_output(output):
    assert prediction(output) is LOGITS


def test_an_output_without_prediction():
    with pytest.raises(TypeError, match="must be a tensor or hold one called 'logits'; got dict"):
        prediction({"scores": LOGITS})


def test_a_table_without_target():
    with pytest.raises(ValueError, match=r"has none of the keys labels, label.*Rename it"):
        target_of({"x": LOGITS})
