"""Products use all bits unless fewer are asked for, whatever the switches of torch say."""

import pytest
import torch
from torch import nn

import thalweg as tw
from cases import MODELS
from thalweg.objectives.arithmetic import _switches, arithmetic, rounding_type

CPU = torch.device("cpu")


def perceptron():
    case = MODELS["perceptron"]
    return case.model().float(), nn.CrossEntropyLoss(), case.data()


def line(space, seeds=(2, 3)):
    return tw.Line(*(MODELS["perceptron"].point(seed, torch.float32) for seed in seeds))


@pytest.fixture
def allowing():
    """Torch's switches as a user may have set them, and put back."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield _switches()
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


class TestSwitches:
    @pytest.mark.parametrize("precision", [None, "tf32", "bfloat16"])
    def test_they_are_put_back(self, allowing, precision):
        with arithmetic(CPU, precision):
            inside = set(_switches().values())
            assert inside == ({"tf32"} if precision == "tf32" else {"ieee"})
        assert _switches() == allowing
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 is True

    def test_they_are_put_back_after_an_error(self, allowing):
        with pytest.raises(ZeroDivisionError, match="in the middle"), arithmetic(CPU, None):
            raise ZeroDivisionError("in the middle")
        assert _switches() == allowing

    def test_an_evaluation_switches_off_what_the_user_allows(self, allowing):
        seen = []

        def loss(output, target):
            seen.append(set(_switches().values()))
            return nn.functional.cross_entropy(output, target)

        model, _, data = perceptron()
        objective = tw.ModelObjective(model, loss, data)
        objective.value(MODELS["perceptron"].point(2))
        assert all(switches == {"ieee"} for switches in seen)
        assert _switches() == allowing

    def test_autocast_of_the_caller_does_not_reach_the_cost(self):
        objective = tw.ModelObjective(*perceptron())
        theta = MODELS["perceptron"].point(2)
        expected = objective.value(theta)
        with torch.autocast("cpu", torch.bfloat16):
            assert objective.value(theta) == expected


class TestFewerBits:
    def test_the_result_holds_the_error_that_they_bring(self):
        model, loss, data = perceptron()
        exact = tw.ModelObjective(model, loss, {"train": data, "valid": data})
        rough = tw.ModelObjective(model, loss, {"train": data, "valid": data}, precision="bfloat16")
        grid = tw.Uniform(-0.5, 1.5, 9)
        right = tw.profile(exact, line(exact.space), grid, progress=False)
        found = tw.profile(rough, line(rough.space), grid, progress=False)
        away = abs(found.loss["train"] - right.loss["train"])
        stated = found.provenance.objective["precision_error"]
        assert 0 < away.max() < 0.05
        assert set(stated) == {"train", "valid"}
        assert stated["train"] == pytest.approx(max(away[[0, 4, 8]]), rel=1e-3)
        assert found.provenance.objective["precision"] == "bfloat16"
        assert right.provenance.objective["precision"] is None
        assert "precision_error" not in right.provenance.objective

    def test_a_surface_holds_it_too(self):
        objective = tw.ModelObjective(*perceptron(), precision="bfloat16")
        points = [MODELS["perceptron"].point(seed, torch.float32) for seed in (2, 3, 4)]
        surface = tw.surface(objective, tw.Plane.through(*points), [0.0, 0.5], [0.0, 1.0])
        assert surface.provenance.objective["precision_error"]["train"] > 0

    def test_points_of_another_arithmetic_are_not_taken_over(self, tmp_path):
        model, loss, data = perceptron()
        exact = tw.ModelObjective(model, loss, data)
        rough = tw.ModelObjective(model, loss, data, precision="bfloat16")
        values = [
            tw.profile(cost, line(cost.space), [0.3], keep=tmp_path, progress=False).loss["train"]
            for cost in (exact, rough, exact)
        ]
        assert values[0] == values[2] != values[1]

    def test_its_rounding_is_that_of_its_factors(self):
        assert rounding_type(torch.float64, None) == torch.float64
        assert rounding_type(torch.float32, "bfloat16") == torch.bfloat16
        # TF32 has the ten bits after the point that float16 has.
        assert torch.finfo(rounding_type(torch.float32, "tf32")).eps == 2.0**-10
        rough = tw.ModelObjective(*perceptron(), precision="tf32")
        assert rough.rounding == torch.float16
        assert rough.in_full_precision().rounding == torch.float32
        assert rough.rounding == torch.float16  # the copy is a copy


class TestErrors:
    def test_an_unknown_name(self):
        with pytest.raises(ValueError, match="`precision` is None, 'tf32' or 'bfloat16'"):
            tw.ModelObjective(*perceptron(), precision="fp8")

    def test_parameters_of_another_type(self):
        with pytest.raises(ValueError, match=r"the parameters are torch\.float64"):
            tw.ModelObjective(*perceptron(), precision="tf32", dtype=torch.float64)
