"""Diagnoses with known content, for what shows and stores them."""

import numpy as np

from thalweg.results import OBSTACLES, Diagnosis, Evidence, Finding, Provenance

STEPS = np.array([0.0, 10.0, 20.0, 40.0, 80.0, 120.0, 160.0, 200.0])


def complete(findings, verdict="absent"):
    """Return a finding for every obstacle: those given, the others with one verdict."""
    severity = float("nan") if verdict == "undetermined" else 0.0
    others = {key: Finding(key, verdict, severity=severity) for key in OBSTACLES}
    return others | {finding.obstacle: finding for finding in findings}


def stuck():
    """Return the diagnosis of a run in whose way are noise and, because of it, small steps."""
    noise = Finding(
        "gradient_noise",
        "present",
        severity=0.62,
        cost=0.41,
        evidence=(
            Evidence("the same steps without noise reach 0.21, the run 0.62", 0.41, 0.02, 120),
            Evidence("noise / descent = 0.94 of the step budget, over 0.5", 0.94, 0.5, 160),
        ),
        rivals=("Not the step size: the best constant step gains 0.01 of J.",),
        would_change="A batch of 4 times the size that gains no more than 0.02 of J.",
        advice="Raise the batch size from 8 to 64, or lower the learning rate towards the end.",
    )
    small = Finding(
        "step_too_small",
        "present",
        severity=0.08,
        cost=0.053,
        symptom_of="gradient_noise",
        evidence=(Evidence("ε·λ_max = 0.04, far under 2", 0.04, 2.0, 120),),
        advice="Less noise first.",
    )
    saddle = Finding(
        "saddle_point",
        "undetermined",
        severity=float("nan"),
        cost=float("nan"),
        evidence=(Evidence("λ_min = −0.002 ± 0.01", -0.002),),
        would_change="More products with the Hessian: diagnose(…, exact=True).",
    )
    plateau = Finding(
        "plateau",
        "undetermined",
        severity=float("nan"),
        cost=float("nan"),
        would_change="More products with the Hessian: diagnose(…, exact=True).",
    )
    minimum = Finding(
        "local_minimum",
        "absent",
        evidence=(Evidence("the gradient is 40 times what noise would leave", 40.0, 1.0, 200),),
    )
    return Diagnosis(
        complete([noise, small, saddle, plateau, minimum]),
        step=STEPS,
        loss=[0.92, 0.8, 0.74, 0.69, 0.66, 0.64, 0.63, 0.62],
        floor=0.26,
        floor_source="the reference",
        possible=0.66,
        stretch=[[20.0, 40.0], [80.0, 120.0], [160.0, 200.0]],
        reached={
            "run": np.array([0.69, 0.64, 0.62]),
            "the same steps without noise": np.array([0.55, 0.46, 0.44]),
            "best constant step": np.array([0.68, np.nan, 0.61]),
        },
        example_counts={"noise": 512},
        provenance=Provenance(dtype="float64", objective={"loss": "CrossEntropyLoss"}),
    )


def healthy():
    """Return the diagnosis of a run with nothing in its way."""
    return Diagnosis(
        complete([]),
        step=STEPS,
        loss=2.3 * np.exp(-STEPS / 25.0),
        floor=0.0,
        floor_source="the loss is bounded below by 0",
        possible=2.3,
        stretch=[[20.0, 40.0], [160.0, 200.0]],
        reached={
            "run": 2.3 * np.exp([-40.0 / 25.0, -200.0 / 25.0]),
            "saddle-free Newton step": 2.3 * np.exp([-42.0 / 25.0, -205.0 / 25.0]),
        },
    )


def open_questions():
    """Return a diagnosis that does not tell much."""
    known = (
        Finding("step_too_large", "absent", evidence=(Evidence("ε·λ_max = 0.4, under 2", 0.4),)),
        Finding("barrier", "undetermined", severity=float("nan"), would_change="A reference."),
    )
    return Diagnosis(complete(known, "undetermined"), step=[0.0, 5.0], loss=[1.0, float("nan")])
