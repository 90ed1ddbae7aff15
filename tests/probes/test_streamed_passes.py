import numpy as np
import pytest
import torch

from cases import normal
from thalweg.probes import streaming
from thalweg.trajectory.points import PointsInMemory


@pytest.mark.parametrize("together", [1, 2, 5, 100])
def test_blocks_hold_all_points_and_the_last_two_stay(together, monkeypatch):
    monkeypatch.setattr(streaming, "_MOST_POINTS", together)
    points = normal(17, 6)
    seen, last = [], []
    for block in streaming.blocks(PointsInMemory(points)):
        for kept, number in last:
            assert torch.equal(kept, points[number])
        seen += [row.clone() for row in block]
        last = [*last, *((row, len(seen) - len(block) + i) for i, row in enumerate(block))][-2:]
    assert torch.equal(torch.stack(seen), points)


@pytest.mark.parametrize("room", [1, 2 * 48, 1 << 20])
def test_few_points_are_in_memory(room, monkeypatch):
    monkeypatch.setattr(streaming, "_MOST_BYTES", room)
    places = {
        block.untyped_storage().data_ptr()
        for block in streaming.blocks(PointsInMemory(normal(90, 6)))
    }
    points = min(max(1, room // 48), streaming._MOST_POINTS)
    assert len(places) * points <= max(4, 3 * points)


def test_of_no_points_there_is_no_block():
    assert list(streaming.blocks(PointsInMemory(torch.empty(0, 3)))) == []


def test_sums_over_pieces_are_those_of_the_whole(monkeypatch):
    points = normal(5, 30_000)
    for threads in (1, 2, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with streaming.Workers() as workers:
            (squares,) = workers.sums(
                30_000,
                lambda room, c: (streaming.dots(room.fill([points], c), room.fill([points], c)),),
            )
        np.testing.assert_allclose(squares, (points**2).sum(1), rtol=1e-13)


def test_an_error_in_a_worker_is_passed_on(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)

    def fail(room, columns):
        raise KeyError("piece")

    with streaming.Workers() as workers, pytest.raises(KeyError, match="piece"):
        workers.sums(20_000, fail)


def test_inner_products_without_vecdot(monkeypatch):
    a, b = np.random.default_rng(0).normal(size=(2, 4, 9))
    with_it = streaming.dots(a, b)
    monkeypatch.delattr(np, "vecdot", raising=False)
    np.testing.assert_allclose(streaming.dots(a, b), with_it, rtol=1e-14)
    np.testing.assert_allclose(streaming.dots(a, b[0]), a @ b[0], rtol=1e-13)
