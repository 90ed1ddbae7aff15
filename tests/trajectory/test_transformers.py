import numpy as np
import pytest
import torch

import thalweg as tw

transformers = pytest.importorskip("transformers", reason="needs pip install 'thalweg[hf]'")
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory. argument is set:UserWarning")


def model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=17,
            n_positions=8,
            n_embd=8,
            n_layer=1,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return transformers.GPT2LMHeadModel(config)


def examples(count=24):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(17, (count, 6), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


class Watching(transformers.TrainerCallback):
    """Notes every point, after the step was made."""

    def __init__(self):
        self.points = {}

    def on_step_end(self, args, state, control, model, **given):
        self.points[state.global_step] = tw.ParameterSpace.of(model).flatten(model)


def trained(folder, own, resume=None, schedule=None, callbacks=(), eval_dataset=None, **settings):
    """Train as users do; return the trainer."""
    from thalweg.trajectory.transformers import TrajectoryCallback

    defaults = {
        "output_dir": str(folder / "checkpoints"),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 5,
    }
    recording = TrajectoryCallback(
        folder / "run", schedule or tw.Every(steps=4), gradient_norm=True
    )
    trainer = transformers.Trainer(
        own,
        transformers.TrainingArguments(**(defaults | settings)),
        train_dataset=examples(),
        eval_dataset=eval_dataset,
        callbacks=[recording, *callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry and "loss" in entry]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_run(tmp_path, accumulated):
    own, watching = model(), Watching()
    start = tw.ParameterSpace.of(own).flatten(own)
    trainer = trained(tmp_path, own, callbacks=[watching], gradient_accumulation_steps=accumulated)
    trajectory = tw.Trajectory.open(tmp_path / "run")
    assert trajectory.step.tolist() == {1: [0, 4, 8, 12], 3: [0, 4]}[accumulated]
    assert torch.equal(trajectory[0].theta, start)
    for point in list(trajectory)[1:]:
        assert torch.equal(point.theta, watching.points[point.step])
    log = trajectory.log
    np.testing.assert_allclose(log.loss, logged(trainer, "loss"), atol=1e-4)
    np.testing.assert_allclose(log.learning_rate, logged(trainer, "learning_rate"), rtol=1e-9)
    assert log.batch_size.tolist() == [4 * accumulated] * (12 // accumulated)
    clipped = np.minimum(logged(trainer, "grad_norm"), 1.0)
    np.testing.assert_allclose(log.gradient_norm, clipped, rtol=1e-3)
    np.testing.assert_allclose(log.epoch, logged(trainer, "epoch"), atol=1e-3)
    assert not own._forward_hooks


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 5}
    trained(tmp_path / "whole", model(), **saving)
    trained(tmp_path / "parts", model(), max_steps=9, **saving)
    trained(tmp_path / "parts", model(1), resume=str(tmp_path / "parts/checkpoints/checkpoint-5"))
    whole, parts = (tw.Trajectory.open(tmp_path / name / "run") for name in ("whole", "parts"))
    assert parts.step.tolist() == [0, 4, 5, 8, 12]
    assert parts.log.step.tolist() == [*range(12)]
    np.testing.assert_allclose(parts.log.loss[5:], whole.log.loss[5:], rtol=0.2)


def test_the_last_point_is_not_the_best_one(tmp_path):
    own, watching = model(), Watching()
    trained(
        tmp_path,
        own,
        schedule=tw.Every(epochs=5),
        callbacks=[watching],
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # the worst one, which is another
        eval_dataset=examples(8),
    )
    trajectory = tw.Trajectory.open(tmp_path / "run")
    assert trajectory.step.tolist() == [0, 12]
    assert torch.equal(trajectory[-1].theta, watching.points[12])
    assert not torch.equal(tw.ParameterSpace.of(own).flatten(own), watching.points[12])


def test_a_loss_that_the_trainer_computes_is_not_known(tmp_path):
    trained(tmp_path, model(), label_smoothing_factor=0.1, max_steps=2)
    log = tw.Trajectory.open(tmp_path / "run").log
    assert np.isnan(log.loss).all()
    assert log.batch_size.tolist() == [4, 4]
