import numpy as np
import pytest
import recorded_runs as runs
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg as tw

lightning = pytest.importorskip("lightning", reason="needs pip install 'thalweg[lightning]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    # Lightning asks torch by an older name.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"),
]


class Module(lightning.LightningModule):
    """A network that notes every loss and every point."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.net = runs.network()
        self.losses, self.points, self.fails_at = [], [], fails_at

    def training_step(self, batch, number):
        x, y = batch
        if self.global_step == self.fails_at:
            raise ZeroDivisionError("in the middle")
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.losses.append(loss.item())
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.norm = nn.utils.get_total_norm(p.grad for p in self.parameters())

    def on_before_zero_grad(self, optimizer):
        self.points.append(runs.flat(self))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def loader():
    x, y = runs.batch(runs.network(), 40, torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, y), batch_size=8)


def trainer(folder, callback, epochs=2, **options):
    from lightning.pytorch import Trainer

    return Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def callback(folder, schedule, **options):
    from thalweg.trajectory.lightning import TrajectoryCallback

    return TrajectoryCallback(folder, schedule, **options)


def test_a_run(tmp_path):
    module = Module()
    watching = callback(
        tmp_path / "run", tw.Every(epochs=1) | tw.At([3]), updates=True, gradient_norm=True
    )
    trainer(tmp_path, watching).fit(module, loader())
    trajectory = tw.Trajectory.open(tmp_path / "run")
    assert trajectory.step.tolist() == [0, 3, 5, 10]
    assert trajectory.epoch.tolist() == [0, 0, 1, 2]
    assert torch.equal(trajectory[-1].theta, runs.flat(module))
    assert torch.equal(trajectory[0].theta, runs.flat(runs.network()))
    np.testing.assert_allclose(trajectory.log.loss, module.losses, rtol=1e-6)
    assert trajectory.log.batch_size.tolist() == [8] * 10
    np.testing.assert_allclose(trajectory.log.learning_rate, [0.1] * 5 + [0.05] * 5)
    assert trajectory.log.gradient_norm[-1] == pytest.approx(float(module.norm), rel=1e-6)
    assert trajectory[1].update_norm > 0


def test_accumulated_batches_and_a_part_of_the_module(tmp_path):
    module = Module()
    watching = callback(tmp_path / "run", tw.Every(steps=1), part="net")
    trainer(tmp_path, watching, accumulate_grad_batches=5).fit(module, loader())
    trajectory = tw.Trajectory.open(tmp_path / "run")
    assert trajectory.step.tolist() == [0, 1, 2]
    assert trajectory.space == tw.ParameterSpace.of(module.net)
    means = np.reshape(module.losses, (2, 5)).mean(axis=1)
    np.testing.assert_allclose(trajectory.log.loss, means, rtol=1e-6)
    assert trajectory.log.batch_size.tolist() == [40] * 2


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    def fit(folder, epochs, **options):
        module = Module()
        run = trainer(folder, callback(folder / "run", tw.Every(steps=2)), epochs)
        run.fit(module, loader(), **options)
        run.save_checkpoint(folder / f"{epochs}.ckpt")
        return tw.Trajectory.open(folder / "run")

    whole = fit(tmp_path / "whole", 3)
    fit(tmp_path / "parts", 1)
    fit(tmp_path / "parts", 2, ckpt_path=tmp_path / "parts" / "1.ckpt")
    again = fit(tmp_path / "parts", 3, ckpt_path=tmp_path / "parts" / "1.ckpt")
    assert again.step.tolist() == [0, 2, 4, 5, 6, 8, 10, 12, 14, 15]
    known = runs.points(again)
    assert all(torch.equal(point.theta, known[point.step]) for point in whole)
    np.testing.assert_array_equal(again.log.loss, whole.log.loss)


def test_an_exception_leaves_the_last_point(tmp_path):
    module = Module(fails_at=3)
    watching = callback(tmp_path / "run", tw.Every(epochs=1))
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        trainer(tmp_path, watching).fit(module, loader())
    trajectory = tw.Trajectory.open(tmp_path / "run")
    assert trajectory.step.tolist() == [0, 3]
    assert torch.equal(trajectory[-1].theta, runs.flat(module))
