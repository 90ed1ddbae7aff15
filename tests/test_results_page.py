import importlib.util
from pathlib import Path

import thalweg as tw
from thalweg.records import CheckedClaim

DOCS = Path(__file__).parents[1] / "docs"


def gallery():
    """The module that writes the page of all claims."""
    spec = importlib.util.spec_from_file_location("docs_gallery", DOCS / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(name, *claims):
    return tw.Record(
        study=name,
        title=f"Title of {name}",
        source="A source (2015), figure 1",
        scale="small",
        asked={"seed": 3},
        claims=tuple(CheckedClaim(*claim) for claim in claims),
    )


def test_every_claim_has_a_row_and_those_that_fail_are_marked():
    page = gallery().table(
        {
            "a": record("a", ("One | two.", "reproduced", "1"), ("Two.", "not reproduced", "0.5")),
            "b": record("b", ("Three.", "reproduced", "3")),
        }
    )
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert page.startswith("2 of 3 claims are reproduced, by 2 studies.")
    assert len(rows) == 3
    assert "[Title of a](a.md), `thalweg run a --scale small --seed 3`" in rows[0]
    assert r"One \| two." in rows[0]
    assert rows[1].endswith("| Two. | 0.5 | **not reproduced** |")
    assert "A source (2015), figure 1" in rows[2]


def test_the_committed_records_can_be_read_and_name_their_studies():
    found = {
        path.parent.name: tw.open_record(path.parent)
        for path in sorted((DOCS / "records").glob("*/record.json"))
    }
    assert found
    for name, kept in found.items():
        assert kept.study == name
    assert f"by {len(found)} studies" in gallery().table(found)
