"""What draws live figures in a browser: script and style, for the report and for the explorer.

`scales.js` knows numbers and colours, `flat.js` panels in the plane, `space.js` surfaces in space,
`page.js` figures in a page. They are plain scripts that share one name, `thalweg`, so that a page
can hold them without addresses.
"""

from importlib import resources

__all__ = ["viewer_script", "viewer_style"]

_SCRIPTS = ("scales.js", "flat.js", "space.js", "page.js")


def viewer_script() -> str:
    """Return the script that draws figures; it does nothing before `thalweg.page` is called."""
    return "\n".join(_text(name) for name in _SCRIPTS)


def viewer_style() -> str:
    """Return colours, light and dark, and the style of live figures."""
    return _text("viewer.css")


def _text(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
