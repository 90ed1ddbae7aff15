"""The report: one HTML file that holds everything it shows and asks for nothing else.

Its one script is its own, named to the browser by its digest; all else, and every address, the
browser is told to refuse. So it can be opened anywhere, mailed, printed and kept. Where scripts are
switched off, and on paper, the pictures are those of the print.
"""

import base64
import hashlib
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from thalweg._version import __version__
from thalweg.records import Record, Result, write_atomically

try:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from thalweg.reports.chapters import chapter_of, in_words
except ImportError as error:
    raise ImportError(
        "A report needs jinja2 and matplotlib, which are not both installed. "
        "Install them with `pip install 'thalweg[report]'`."
    ) from error

from thalweg.reports.comparison import compared
from thalweg.reports.viewer import viewer_script, viewer_style

__all__ = ["report"]

Reportable = Record | Result | str | os.PathLike[str]


def report(
    what: Reportable | Iterable[Reportable],
    path: str | os.PathLike[str],
    *,
    title: str = "What stands in the way",
) -> Path:
    """Write a report of records and results to one HTML file.

    For each record it has title, source, summary in plain words, claims with their verdicts,
    figures with captions, numbers, the command that makes such a record, and what made this one;
    of a diagnosis what is in the way, in words, and every obstacle with its evidence. The picture
    that matters most stands first: the run on its surface, else the diagnosis, a map, a profile.
    Several records are compared side by side: what is in the way, their claims and numbers, and
    the figures that they have in common.

    Figures are alive: curves can be zoomed, put on a logarithmic scale and switched off, surfaces
    turned, everything read by pointer or keyboard and saved as CSV. The page is readable on a
    phone, in the dark and on paper, and without scripts. The same input gives the same bytes.

    Args:
        what: Records, folders of records, or bare results; one of them or several. A record
            may be of a study that this version does not know.
        path: The file to write, such as `"report.html"`.
        title: Heading of the page.

    Returns:
        The path of the file.

    Raises:
        ImportError: If jinja2 or matplotlib is not installed (`pip install 'thalweg[report]'`).
        RecordError: If a folder holds no record, or a damaged one.
        TypeError: If something is neither a record, a folder nor a result.

    Example:
        >>> import tempfile
        >>> from thalweg.results import Profile
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = report(walk, f"{folder}/report.html")
        ...     "Cost along the line from start to end" in page.read_text(encoding="utf-8")
        True
    """
    items: Any = what if _is_several(what) else [what]
    chapters = [chapter_of(item, number) for number, item in enumerate(items, 1)]
    style = viewer_style() + _asset("page.css")
    script = f"{viewer_script()}\nthalweg.page.begin();\n"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = in_words
    text = environment.from_string(_asset("page.html.jinja")).render(
        title=title,
        chapters=chapters,
        comparison=compared(chapters),
        style=Markup(style),  # our own files, so they need no escaping
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        version=__version__,
    )
    path = Path(path)
    write_atomically(path, text.encode())
    return path


def _is_several(what: Any) -> bool:
    """Return whether several things were given: a name is one thing, and so is a diagnosis."""
    return isinstance(what, Iterable) and not isinstance(what, str | os.PathLike | Result)


def _digest(text: str) -> str:
    """Return what the policy of a page calls a text that stands in it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
