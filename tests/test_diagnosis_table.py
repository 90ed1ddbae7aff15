"""What a diagnosis says in words."""

import copy
import pickle

import numpy as np
import pytest

from hand_made_diagnoses import complete, healthy, open_questions, stuck
from thalweg.results import OBSTACLES, Diagnosis, Evidence, Finding, diagnosis_table
from thalweg.results.diagnosis_table import headline, in_order, share_words

ALL = (stuck, healthy, open_questions)


def rows_of(table):
    """Return the verdict of each row of the table by its obstacle, in order."""
    lines = table.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("obstacle ")) + 1
    rows = {}
    for line in lines[begin:]:
        if not line:
            break
        if not line.startswith(" "):
            rows[line[:25].strip()] = line[25:39].strip()
    return rows


def test_the_first_line_says_what_costs_most():
    first = diagnosis_table(stuck()).splitlines()[0]
    assert first == (
        "Gradient noise takes 62 % of the possible progress (0.41 of J); 1 more in the way."
    )
    assert headline(healthy()) == "Nothing stands in the way: all 14 obstacles are absent."


def test_undetermined_is_never_taken_for_nothing_in_the_way():
    assert headline(open_questions()) == (
        "Nothing was found in the way, but 13 of 14 obstacles are undetermined."
    )
    nothing_known = Diagnosis(complete([], "undetermined"), step=[0.0], loss=[1.0])
    assert headline(nothing_known) == (
        "What is in the way is undetermined, for each of 14 obstacles."
    )


def test_a_share_that_is_not_known_is_not_made_up():
    finding = Finding("barrier", "present", severity=float("nan"), cost=float("nan"))
    told = diagnosis_table(Diagnosis(complete([finding]), step=[0.0], loss=[1.0]))
    assert told.startswith("Barrier is in the way; how much it takes is not known.\n")
    assert "nan" not in told


@pytest.mark.parametrize("make", ALL)
def test_each_obstacle_has_one_row_with_its_verdict(make):
    diagnosis = make()
    rows = rows_of(diagnosis_table(diagnosis))
    assert rows == {finding.title: finding.verdict for finding in diagnosis}
    order = ("present", "undetermined", "absent")
    places = [order.index(verdict) for verdict in rows.values()]
    assert places == sorted(places)


def test_the_rows_of_what_is_in_the_way_begin_with_the_primary():
    finding = stuck().present[0]
    assert in_order(stuck())[0].obstacle == finding.obstacle == stuck().primary
    assert next(iter(rows_of(str(stuck())))) == "gradient noise"


def test_a_reader_of_rows_would_notice_a_missing_one():
    lines = diagnosis_table(healthy()).splitlines()
    text = "\n".join(line for line in lines if not line.startswith("plateau"))
    assert "plateau" not in rows_of(text)


def test_all_that_is_known_of_the_primary_is_told():
    diagnosis = stuck()
    told = " ".join(diagnosis_table(diagnosis).split())
    noise = diagnosis["gradient_noise"]
    words = [each.text for each in noise.evidence]
    for text in (*words, *noise.rivals, noise.would_change, noise.advice):
        assert text in told
    assert "(step 160)" in told
    assert "a symptom of gradient noise" in told
    assert "512 examples for noise" in told
    assert "down to 0.26 (the reference)" in told


def test_what_the_same_thing_would_settle_is_told_together():
    told = " ".join(diagnosis_table(stuck()).split())
    assert "saddle point, plateau: More products with the Hessian" in told
    assert told.count("More products with the Hessian") == 1
    assert "settle" not in diagnosis_table(healthy())


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("width", [60, 72, 100])
def test_no_line_is_wider_than_the_page(make, width):
    lines = diagnosis_table(make(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any(line != line.rstrip() for line in lines)


def test_a_long_word_goes_on_in_the_next_line():
    endless = Finding("detour", "absent", evidence=(Evidence("ξ" * 300),))
    told = diagnosis_table(Diagnosis(complete([endless]), step=[0.0], loss=[1.0]))
    assert max(map(len, told.splitlines())) <= 100
    assert told.count("ξ") == 300


def test_a_page_that_is_too_narrow_is_refused():
    with pytest.raises(ValueError, match=r"needs 60 columns; got width=59"):
        diagnosis_table(stuck(), 59)


@pytest.mark.parametrize(
    ("severity", "words"),
    [(0.0, "0 %"), (0.001, "< 1 %"), (0.006, "1 %"), (0.996, "100 %"), (float("nan"), "?")],
)
def test_shares_in_words(severity, words):
    assert share_words(severity) == words


def test_printing_gives_the_table():
    assert str(stuck()) == diagnosis_table(stuck())


def test_the_cause_of_a_symptom_is_an_obstacle():
    with pytest.raises(ValueError, match=r"The cause of a symptom is one of .*; got 'bad luck'"):
        Finding("plateau", "present", symptom_of="bad luck")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
def test_a_copy_says_the_same(again):
    assert str(again(stuck())) == str(stuck())


def test_the_words_do_not_depend_on_the_units_of_the_cost():
    """J → cJ changes the numbers of J, not the shares, verdicts or their order."""
    found = stuck()
    scaled = Diagnosis(
        {
            key: Finding(**{**vars(each), "cost": 1e6 * each.cost})
            for key, each in found.findings.items()
        },
        step=found.step,
        loss=1e6 * found.loss,
        floor=1e6 * found.floor,
        possible=1e6 * found.possible,
    )
    assert rows_of(str(scaled)) == rows_of(str(found))
    assert list(rows_of(str(scaled))) == list(rows_of(str(found)))
    assert headline(scaled).startswith("Gradient noise takes 62 % of the possible progress")


def test_hand_made_diagnoses_are_complete():
    for make in ALL:
        assert list(make().findings) == list(OBSTACLES)
        assert np.isfinite(make().loss[0])
