"""Runs the Python of the tutorials when the documentation is built, and shows what came of it.

The blocks of a page run in one namespace, one after the other, in an empty folder. What a block
prints stands below it, and so do the pictures (`.png`) that it draws. A block that raises or warns
ends the build: what a page says is what the code does.
"""

import contextlib
import io
import os
import re
import tempfile
import warnings
from pathlib import Path

import torch
from PIL import Image

BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
DRAWN = "drawn"  # the folder of the pictures, beside the pages


class BlockError(Exception):
    """A block of a page could not be run."""


def connect(app, folder):
    """Let Sphinx run the pages in a folder of the documentation, at every build.

    Args:
        app: The Sphinx application.
        folder: Name of the folder.
    """

    def outdated(app, env, added, changed, removed):
        return [name for name in env.found_docs if name.startswith(f"{folder}/")]

    def read(app, name, content):
        if name.startswith(f"{folder}/"):
            content[0] = executed(content[0], name, Path(app.srcdir) / folder / DRAWN)

    app.connect("env-get-outdated", outdated)
    app.connect("source-read", read)


def executed(text, name, target):
    """Return the text of a page with what its blocks print and draw.

    Args:
        text: Markdown.
        name: What the page is called in errors; its last part begins the names of pictures.
        target: Where pictures are put; it is made where there are some.

    Raises:
        BlockError: If a block raises or warns.
    """
    parts, last = [], 0
    with _aside() as here:
        names = {"__name__": name}
        for number, block in enumerate(BLOCK.finditer(text), 1):
            printed = _run(block[1], names, f"{name}, block {number}")
            parts += [text[last : block.end()], *_shown(printed)]
            last = block.end()
            for picture in sorted(here.glob("*.png")):
                parts.append(_figure(picture, Path(name).name, target))
                picture.unlink()
    return "".join([*parts, text[last:]])


@contextlib.contextmanager
def _aside():
    """Give an empty folder to work in; leave folder, random state and threads as they were."""
    before, threads = Path.cwd(), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        os.chdir(folder)
        torch.set_num_threads(1)  # small networks are no faster with more
        torch.manual_seed(0)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
            torch.set_num_threads(threads)


def _run(code, names, place):
    """Run a block, and return what it prints."""
    printed = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(io.StringIO()),  # where progress is shown on a terminal
        ):
            warnings.simplefilter("error")
            exec(compile(code, place, "exec"), names)
    except Exception as error:
        raise BlockError(f"{place}: {type(error).__name__}: {error}") from error
    return printed.getvalue()


def _shown(printed):
    """Yield what was printed as a block of its own."""
    if printed.strip():
        yield f"\n````text\n{printed.rstrip()}\n````\n"


def _figure(picture, page, target):
    """Put a picture into the folder of the pictures, and return the directive that shows it."""
    target.mkdir(parents=True, exist_ok=True)
    name = f"{page}-{picture.name}"
    (target / name).write_bytes(picture.read_bytes())
    with Image.open(picture) as image:
        told = {key: " ".join(str(image.info.get(key, "")).split()) for key in _TOLD}
    title, caption = (told[key] for key in _TOLD)
    lines = [f"\n```{{figure}} {DRAWN}/{name}", ":width: 460px", f":alt: {title}", "", caption]
    return "\n".join([*lines, "```\n"])


_TOLD = ("Title", "Description")  # what `tw.draw` writes into a picture
