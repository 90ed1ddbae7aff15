"""A transformer sharded over ranks gives the bits of one process, and none is alone for long."""

import os
import signal
import subprocess
import sys

import jobs
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import thalweg as tw
from thalweg.objectives.sharding import local_rows, whole

ALPHA = np.linspace(-0.25, 1.25, 7)


class Transformer(nn.Module):
    """Two blocks between an embedding and a head that shares its weights."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 13, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden).movedim(-1, 1)


def transformer(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer()


def tokens(rows=17):
    generator = torch.Generator().manual_seed(4)
    table = torch.randint(11, (rows, 7), generator=generator)
    return table[:, :-1].contiguous(), table[:, 1:].contiguous()


def cost(shard, model=None, rows=17, **options):
    x, y = tokens(rows)
    return tw.ModelObjective(
        transformer() if model is None else model,
        nn.CrossEntropyLoss(ignore_index=3),
        {"train": (x, y), "valid": (x[:5], y[:5])},
        metrics={"error": tw.error_rate},
        batch_size=4,
        shard=shard,
        **options,
    )


def line(space):
    return tw.Line(*(space.flatten(transformer(seed)) for seed in (1, 2)))


def bits(profile):
    tables = [*profile.loss.values(), *profile.metrics["error"].values()]
    return [[float(value).hex() for value in table] for table in tables]


def plainly(objective, section):
    """Evaluate point by point in one process."""
    with jobs.watched():
        return tw.profile(objective, section, ALPHA, progress=False)


@pytest.fixture(scope="module")
def expected():
    objective = cost(False)
    return bits(plainly(objective, line(objective.space)))


# --- what the ranks do ----------------------------------------------------------------------


def whole_line(keep, doomed=-1, after=0):
    """Evaluate a line; one rank may die in the middle."""
    objective = cost(True)
    if jobs.rank() == doomed:
        evaluate, calls = objective.evaluate_at, []

        def dying(tensors):
            if len(calls) == after:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(1)
            return evaluate(tensors)

        objective.evaluate_at = dying
    profile = tw.profile(objective, line(objective.space), ALPHA, keep=keep, progress=False)
    kept = {name: p.to_local().numel() for name, p in parameters(objective) if is_shard(p)}
    return bits(profile), sum(kept.values()), tw.plan(objective, line(objective.space)).strategy


def parameters(objective):
    return list(objective.forward_pass.model.named_parameters())


def is_shard(parameter):
    return parameter is not local_rows(parameter)[0] and hasattr(parameter, "to_local")


def from_disk(folder):
    """Points on disk and parameters on the meta device: no rank ever holds a whole vector."""
    with torch.device("meta"):
        empty = Transformer()
    objective = cost(True, empty)
    ends = [tw.StoredPoint(objective.space, f"{folder}/{seed}.safetensors") for seed in (1, 2)]
    return bits(tw.profile(objective, tw.Line(*ends), ALPHA, progress=False))


def written_rows():
    """Every entry is written once, by the rank that keeps it."""
    objective = cost(True)
    theta = torch.arange(float(objective.space.size))
    objective.write([theta], [1.0])
    tensors = dict(parameters(objective))
    return [
        bool(torch.equal(whole(tensors[block.name]), block.of(theta)))
        for block in objective.space.blocks
    ]


def few_batches_and_a_penalty():
    """Fewer batches than ranks, a frozen part, and a penalty of all parameters."""
    model = transformer()
    model.blocks[0].requires_grad_(False)
    objective = cost(True, model, rows=3, penalty=squares)
    ends = [torch.full((objective.space.size,), value) for value in (0.01, 0.02)]
    return bits(tw.profile(objective, tw.Line(*ends), [0.0, 0.5], progress=False))


def squares(tensors):
    return sum(tensor.square().sum() for tensor in tensors.values())


def values_and_errors():
    objective = cost(True)
    theta = objective.space.flatten(transformer(1))
    told = []
    for ask in (
        lambda: objective.gradient(theta),
        lambda: tw.ModelObjective(Scalar(), nn.MSELoss(), torch.ones(3, 1), shard=True),
    ):
        try:
            ask()
        except ValueError as error:
            told.append(str(error))
    return objective.value(theta), told


class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x


# --- what they find -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_a_sharded_line_has_the_bits_of_one_process(expected, size, tmp_path):
    found = jobs.on_ranks(size, whole_line, tmp_path)
    count = cost(False).space.size
    assert [f[0] for f in found] == [expected] * size
    shares = [f[1] for f in found]
    assert sum(shares) == count  # every entry is kept once
    assert max(shares) < 1.3 * count / size
    assert {f[2] for f in found} == {"tensor by tensor"}
    assert next(p.name for p in tmp_path.iterdir()).endswith("-rank0.jsonl")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_rank_that_dies_loses_no_finished_points(expected, tmp_path):
    first = jobs.on_ranks(2, whole_line, tmp_path, 1, 4)
    assert first[1] is None
    assert "Every rank must stay" in first[0] or "Error" in first[0]
    lines = next(tmp_path.iterdir()).read_bytes().split(b"\n")
    assert 1 + 3 <= len(lines) - 1 <= 1 + 5  # a head, and what had been finished
    again = jobs.on_ranks(2, whole_line, tmp_path)
    assert [found[0] for found in again] == [expected] * 2


def test_points_on_disk_into_a_model_without_memory(expected, tmp_path):
    for seed in (1, 2):
        state = {n: p.detach() for n, p in transformer(seed).named_parameters()}
        save_file(state, tmp_path / f"{seed}.safetensors")
    assert jobs.on_ranks(2, from_disk, tmp_path) == [expected] * 2


def test_each_rank_writes_its_own_rows():
    for found in jobs.on_ranks(3, written_rows):
        assert all(found)


def test_fewer_batches_than_ranks_a_frozen_part_and_a_penalty():
    model = transformer()
    model.blocks[0].requires_grad_(False)
    objective = cost(False, model, rows=3, penalty=squares)
    ends = [torch.full((objective.space.size,), value) for value in (0.01, 0.02)]
    with jobs.watched():
        right = tw.profile(objective, tw.Line(*ends), [0.0, 0.5], progress=False)
    for found in jobs.on_ranks(2, few_batches_and_a_penalty):
        assert found == bits(right)


def test_values_are_those_of_one_process_and_derivatives_are_refused():
    theta = cost(False).space.flatten(transformer(1))
    for value, told in jobs.on_ranks(2, values_and_errors):
        assert value == cost(False).value(theta)
        assert "sharded over ranks. Leave `shard` out" in told[0]
        assert "the number(s) 'scale'" in told[1]


def test_one_process_alone_has_nobody_to_share_with():
    with pytest.raises(ValueError, match="this process is alone"):
        cost(True)


def test_the_command_line_takes_a_sharded_cost(tmp_path):
    """`torchrun -m thalweg profile` with a factory that shards."""
    (tmp_path / "cost.py").write_text(
        "import torch, thalweg as tw\n"
        "def cost():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Linear(3, 2)\n"
        "    x, y = torch.randn(9, 3), torch.randint(0, 2, (9,))\n"
        "    return tw.ModelObjective(model, torch.nn.CrossEntropyLoss(), (x, y), shard=True)\n"
    )
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(nn.Linear(3, 2).state_dict(), tmp_path / f"{seed}.safetensors")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "thalweg", "profile", "0.safetensors"]
    command += ["1.safetensors", "--objective", "cost.py:cost", "--grid", "0:1:5", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("alpha,loss_train")
    assert told.stdout.count("\n") == 6
