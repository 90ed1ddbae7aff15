"""Is the diagnosis right? Runs with a planted cause, and what it names.

"Consider all possible obstacles, and seek evidence for which ones are there." Each case has a
cause that is known by construction, on closed forms and on networks that learn handwritten
digits, in several sizes, units, seeds and optimisers. The thresholds of the diagnosis were chosen
on the cases of the part `development`; the claims are about those of the part `held-out`, which
are of other families.
"""

from typing import Any

import numpy as np

from thalweg.results import OBSTACLES, ConfusionMatrix, Provenance
from thalweg.studies.study import Claim, Outcome, Run, Study

_NOTHING = "none"
_PARTS = ("held-out", "development")


def run(run: Run) -> Outcome:
    """Diagnose every planted run."""
    rows = diagnosed_cases(run)
    results: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    summary = []
    facts = Provenance(section={"kind": "gallery", "seed": run["seed"]})
    for part in _PARTS:
        own = [row for row in rows if row["part"] == part]
        matrix = confusion_of(own, facts)
        results[part] = matrix
        name = part.replace("-", "_")
        numbers |= {
            f"{name}_cases": matrix.cases,
            f"{name}_right": matrix.right,
            f"{name}_false_alarms": matrix.false_alarms,
            f"{name}_healthy": matrix.healthy,
        }
        wrong = [
            f"{row['name']} (said {row['said'] or _NOTHING})" for row in own if not row["right"]
        ]
        summary.append(
            f"Of {matrix.cases} {part} cases {matrix.right:.1%} are diagnosed right"
            + (f"; not so: {'; '.join(wrong)}." if wrong else ".")
        )
    return Outcome(results, numbers, tuple(summary))


def diagnosed_cases(run: Run) -> list[dict[str, Any]]:
    """Return a row for each case: what is planted, what was named, what was wrongly present."""
    from thalweg.diagnosis import diagnose
    from thalweg.studies.further_problems import further_functions, further_networks
    from thalweg.studies.mixed_problems import mixed_functions, mixed_networks
    from thalweg.studies.planted_networks import planted_networks
    from thalweg.studies.planted_problems import planted_functions
    from thalweg.studies.unseen_problems import unseen_functions, unseen_networks
    from thalweg.studies.varied_problems import varied_functions, varied_networks

    few, folder = bool(run["few"]), run.folder / "runs"
    cases = [
        *planted_functions(few),
        *planted_networks(few, folder),
        *further_functions(few),
        *further_networks(few, folder),
        *varied_functions(few),
        *varied_networks(few, folder),
        *mixed_functions(few),
        *mixed_networks(few, folder),
        *unseen_functions(few),
        *unseen_networks(few, folder),
    ]
    rows = []
    for done, case in enumerate(cases):
        run.report(done, len(cases), case.name)
        planted = case.make()
        found = diagnose(
            planted.objective,
            planted.trajectory,
            reference=planted.reference,
            floor=planted.floor,
            progress=False,
        )
        allowed = {case.planted, *case.also}
        rows.append(
            {
                "name": case.name,
                "part": case.part,
                "planted": case.planted,
                "said": found.primary,
                "right": found.primary == case.planted,
                "wrongly": [f.obstacle for f in found.present if f.obstacle not in allowed],
                "absent": [key for key in OBSTACLES if key not in allowed],
            }
        )
    return rows


def confusion_of(rows: list[dict[str, Any]], facts: Provenance) -> ConfusionMatrix:
    """Return the confusion matrix of some cases."""
    causes = (*OBSTACLES, _NOTHING)
    place = {name: index for index, name in enumerate(causes)}
    counts = np.zeros((len(causes), len(causes)))
    wrongly, absent = np.zeros(len(causes)), np.zeros(len(causes))
    for row in rows:
        counts[place[row["planted"] or _NOTHING], place[row["said"] or _NOTHING]] += 1
        for key in row["wrongly"]:
            wrongly[place[key]] += 1
        for key in row["absent"]:
            absent[place[key]] += 1
    return ConfusionMatrix(causes, counts, wrongly, absent, facts)


STUDY = Study(
    name="obstacle-gallery",
    title="Planted obstacles, and what the diagnosis names",
    source="Goodfellow (2015), Montreal deep learning summer school, closing table",
    run=run,
    scales={"smoke": {"few": True}, "small": {"few": False}},
    claims=(
        Claim(
            "The planted cause is named in at least 95 % of the held-out cases.",
            lambda n: n["held_out_right"] >= 0.95,
            "{held_out_right:.1%} of {held_out_cases}",
        ),
        Claim(
            "An obstacle that is absent by construction is called present in at most 2 % of the "
            "chances.",
            lambda n: n["held_out_false_alarms"] <= 0.02,
            "{held_out_false_alarms:.2%}",
        ),
        Claim(
            "At least 95 % of the healthy runs get a clean bill.",
            lambda n: n["held_out_healthy"] >= 0.95,
            "{held_out_healthy:.1%}",
        ),
    ),
)
