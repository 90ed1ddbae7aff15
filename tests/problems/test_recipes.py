import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from thalweg.problems.recipes import (
    MAXOUT,
    RELU,
    RELU_WITHOUT_DROPOUT,
    SIGMOID,
    ExponentialDecay,
    LinearDecay,
    LinearMomentum,
    Recipe,
)

# Computed with 40 decimals from the published formulas.
RELU_RATES = {
    1: 0.09708919481719286,
    2: 0.09691938963438571,
    559: 0.0023379028108071429,
    560: 0.002168097628,
    561: 0.002168097628,
    5000: 0.002168097628,
}
RELU_MOMENTA = {
    1: 0.5,
    2: 0.5002858206599713,
    697: 0.6989311793400287,
    698: 0.699217,
    5000: 0.699217,
}
MAXOUT_MOMENTA = {
    1: 0.5,
    2: 0.5008032128514057,
    249: 0.6991967871485944,
    250: 0.7,
    5000: 0.7,
}


@pytest.mark.parametrize(("epoch", "rate"), RELU_RATES.items())
def test_relu_learning_rate_table(epoch, rate):
    assert RELU.learning_rate.at(epoch=epoch, updates=7) == pytest.approx(rate, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("recipe", "epoch", "momentum"),
    [(RELU, *row) for row in RELU_MOMENTA.items()]
    + [(MAXOUT, *row) for row in MAXOUT_MOMENTA.items()],
)
def test_momentum_tables(recipe, epoch, momentum):
    assert recipe.momentum.at(epoch=epoch) == pytest.approx(momentum, rel=1e-12, abs=0)


def test_maxout_learning_rate_follows_updates_and_not_epochs():
    rate = MAXOUT.learning_rate
    assert rate.at(epoch=1, updates=0) == 0.1
    assert rate.at(epoch=1, updates=500) == pytest.approx(0.09980020026593304, rel=1e-12)
    # Divided by hand after every update, as the published training loop does.
    divided = 0.1
    for _ in range(5000):
        divided /= 1.000004
    assert rate.at(epoch=1, updates=5000) == pytest.approx(divided, rel=1e-11)
    assert rate.at(epoch=99, updates=5000) == rate.at(epoch=1, updates=5000)
    assert rate.at(epoch=1, updates=10**9) == 1e-6


def test_exponential_decay_reaches_its_floor_without_overflow():
    schedule = ExponentialDecay(initial=1.0, factor=1.5, floor=1e-3)
    assert schedule.at(epoch=1, updates=10**6) == 1e-3


def test_linear_decay_before_its_start_and_by_repeated_subtraction():
    schedule = LinearDecay(initial=0.5, start=4, saturate=9, factor=0.1)
    step = 0.5 * 0.9 / 6
    expected, rate = [], 0.5
    for epoch in range(1, 13):
        if 4 <= epoch < 9:
            rate -= step
        expected.append(0.05 if epoch >= 9 else rate)
    found = [schedule.at(epoch=epoch, updates=0) for epoch in range(1, 13)]
    assert found == pytest.approx(expected, rel=1e-13)
    # The last step, onto the final rate, is as large as the others.
    assert found[7] - found[8] == pytest.approx(step)


def test_factor_one_keeps_the_rate():
    constant = [
        LinearDecay(initial=0.3, start=1, saturate=1, factor=1.0),
        ExponentialDecay(initial=0.3, factor=1.0),
    ]
    for schedule in constant:
        assert {schedule.at(epoch=k, updates=100 * k) for k in (1, 2, 50)} == {0.3}


def test_momentum_waits_for_its_start():
    schedule = LinearMomentum(initial=0.2, final=0.8, start=3, saturate=6)
    found = [schedule.at(epoch=epoch) for epoch in range(1, 8)]
    assert found == pytest.approx([0.2, 0.2, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_the_recipes_of_one_family_differ_in_one_field():
    assert replace(SIGMOID, activation="relu") == RELU
    assert replace(RELU_WITHOUT_DROPOUT, dropout=RELU.dropout) == RELU
    assert RELU_WITHOUT_DROPOUT.dropout is None


def test_published_dropout_scales():
    assert RELU.dropout == ((0.8, 1.25), (0.5, 2.0), (0.5, 2.0))
    assert MAXOUT.dropout == ((0.8, 1.0), (0.5, 2.0), (0.5, 2.0))


def test_recipe_is_frozen_and_turns_into_plain_values():
    with pytest.raises(FrozenInstanceError, match="hidden"):
        MAXOUT.hidden = (1,)  # type: ignore[misc]
    plain = asdict(MAXOUT)
    assert plain["hidden"] == (240, 240)
    assert plain["learning_rate"] == {"initial": 0.1, "factor": 1.000004, "floor": 1e-6}


def test_softmax_regression_is_a_recipe_without_hidden_layers():
    recipe = replace(RELU, hidden=(), init_ranges=(0.1,), norm_limits=(math.inf,), dropout=None)
    assert recipe.layers == 1


@pytest.mark.parametrize("name", ["init_ranges", "norm_limits", "dropout"])
def test_each_layer_needs_its_entry(name):
    shortened = getattr(RELU, name)[:2]
    with pytest.raises(ValueError, match=rf"`{name}` .* each of 3 layers .* got 2 .* Give"):
        replace(RELU, **{name: shortened})


def test_another_depth_names_the_fields_to_give():
    with pytest.raises(ValueError, match="`init_ranges` must have one entry for each of 2 layers"):
        replace(RELU, hidden=(64,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "must be one of relu, sigmoid, maxout; got 'tanh'"),
        ({"hidden": (8, 0)}, r"`hidden` must be at least 1; got \(8, 0\)"),
        ({"pieces": 0}, "`pieces` must be at least 1; got 0"),
        ({"pieces": 3}, "`pieces` must be 1 for relu; got 3"),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
        ({"epochs": 0}, "`epochs` must be at least 1; got 0"),
        ({"patience": -1}, "`patience` must be at least 1; got -1"),
        ({"init_ranges": (0.1, -0.1, 0.1)}, "`init_ranges` must be finite and not negative"),
        ({"init_ranges": (0.1, math.inf, 0.1)}, "`init_ranges` must be finite and not negative"),
        ({"norm_limits": (1.0, 0.0, 1.0)}, "`norm_limits` must be positive"),
        ({"norm_limits": (1.0, math.nan, 1.0)}, "`norm_limits` must be positive"),
        ({"dropout": ((0.0, 1.0),) * 3}, "`dropout` must hold pairs"),
        ({"dropout": ((1.1, 1.0),) * 3}, "`dropout` must hold pairs"),
        ({"dropout": ((0.5, 0.0),) * 3}, "`dropout` must hold pairs"),
    ],
)
def test_recipe_refuses_numbers_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RELU, **changes)


@pytest.mark.parametrize(
    ("schedule", "changes", "message"),
    [
        (MAXOUT.learning_rate, {"initial": 0.0}, "`initial` must be positive"),
        (MAXOUT.learning_rate, {"factor": 0.9}, "`factor` must be at least 1; got 0.9"),
        (MAXOUT.learning_rate, {"floor": 0.2}, "`floor` must lie between 0 and .* 0.1; got 0.2"),
        (MAXOUT.learning_rate, {"floor": -0.1}, "`floor` must lie between 0 and .* got -0.1"),
        (RELU.learning_rate, {"initial": math.nan}, "`initial` must be positive; got nan"),
        (RELU.learning_rate, {"saturate": 0}, "`saturate` must not come before .* epoch 1; got 0"),
        (RELU.learning_rate, {"factor": 0.0}, r"`factor` must lie in \(0, 1\]; got 0.0"),
        (RELU.learning_rate, {"factor": 1.5}, r"`factor` must lie in \(0, 1\]; got 1.5"),
        (RELU.momentum, {"initial": -0.1}, r"`initial` must lie in \[0, 1\); got -0.1"),
        (RELU.momentum, {"final": 1.0}, r"`final` must lie in \[0, 1\); got 1.0"),
        (RELU.momentum, {"saturate": 1}, "`saturate` must come after `start`, epoch 1; got 1"),
    ],
)
def test_schedules_refuse_numbers_out_of_range(schedule, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(schedule, **changes)


def test_reading_a_recipe_does_not_load_torch():
    code = "import sys, thalweg.problems.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layers_counts_the_softmax():
    assert isinstance(MAXOUT, Recipe)
    assert MAXOUT.layers == 3
