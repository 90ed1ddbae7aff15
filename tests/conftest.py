import pytest
import torch
from torch import Tensor

from cases import MODELS, ModelCase


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def case(request: pytest.FixtureRequest) -> ModelCase:
    """Each network of the table in turn."""
    return request.param


@pytest.fixture
def classification() -> tuple[Tensor, Tensor]:
    """Inputs and classes for a network of three inputs and three outputs."""
    return MODELS["perceptron"].data()


@pytest.fixture
def perceptron() -> torch.nn.Module:
    """A network of three inputs and three outputs."""
    return MODELS["perceptron"].model()
