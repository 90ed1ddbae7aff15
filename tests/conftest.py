import os

import pytest
from hypothesis import settings
from torch import Tensor

from cases import MODELS, ModelCase

# Nothing is ever fetched by a test; read when Transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples in every run, and no test that depends on how fast the machine is.
settings.register_profile("thalweg", deadline=None, derandomize=True)
settings.load_profile("thalweg")


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def case(request: pytest.FixtureRequest) -> ModelCase:
    """Each network of the table in turn."""
    return request.param


@pytest.fixture
def classification() -> tuple[Tensor, Tensor]:
    """Inputs and classes for a network of three inputs and three outputs."""
    return MODELS["perceptron"].data()
