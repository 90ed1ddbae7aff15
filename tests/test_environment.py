import pytest
import torch

import thalweg as tw
from thalweg.environment import provenance, usable_device
from thalweg.objectives.batches import read_splits


def test_a_device_that_is_not_there_is_explained():
    with pytest.raises(ValueError, match=r"A device that torch can use here .*got 'teapot' \("):
        usable_device("teapot")
    assert usable_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_explained():
    data = (torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"Use 'cpu', or install a build of torch"):
        tw.ModelObjective(torch.nn.Linear(3, 1), torch.nn.MSELoss(), data, device="cuda")
    with pytest.raises(ValueError, match=r"got 'cuda'"):
        usable_device("cuda")


def test_what_a_result_was_made_with():
    made = provenance(torch.device("cpu"), torch.float64, 0.12345, objective={"model": "m"})
    assert made.versions["thalweg"] == tw.__version__
    assert (made.device, made.dtype, made.seconds) == ("cpu", "float64", 0.123)
    assert made.threads == torch.get_num_threads()
    assert (dict(made.objective), dict(made.section)) == ({"model": "m"}, {})


def test_the_data_goes_where_the_objective_is():
    (split,) = read_splits((torch.ones(3, 2), torch.ones(3)), None, torch.device("cpu"), torch.half)
    assert split.batches[0][0].dtype == torch.half
