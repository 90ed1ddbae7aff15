"""Makes the screenshots of report and explorer: `python docs/report_pictures.py`.

It needs a Chromium, and playwright (which `make test` installs). The report is that of the record
of `surface-relu`; the explorer looks at a small network that is trained here on handwritten digits.
"""

import contextlib
import io
import shutil
import tempfile
import threading
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import sync_playwright
from sklearn.datasets import load_digits

import thalweg as tw
from thalweg.explorer.catalogue import Catalogue, Solution
from thalweg.explorer.explorer import Explorer
from thalweg.explorer.server import ExplorerServer
from thalweg.explorer.store import Store, fingerprint

HERE = Path(__file__).parent
TARGET = HERE / "images"
RECORD = HERE / "records" / "surface-relu"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SOFTWARE = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
COLOURS = 256  # so that a picture is small
MOST_BYTES = 150_000


def save(shot, name):
    """Write a screenshot with few colours, and raise where it is large."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture = picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=0)
    path = TARGET / name
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} must have {MOST_BYTES} bytes at most; has {path.stat().st_size}.")
    print(path, path.stat().st_size)


def opened(chromium, address, width, height, *, dark=False, scale=1):
    """Return a page in a window of some size."""
    context = chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        device_scale_factor=scale,
    )
    page = context.new_page()
    page.goto(address)
    return page


def wait(page, holds):
    """Wait until something holds."""
    for _ in range(600):
        if holds():
            return
        page.wait_for_timeout(100)
    raise TimeoutError("what was waited for did not come about in a minute")


def report(chromium, folder):
    """Make the pictures of the report: on a screen, and in the dark on a phone."""
    address = tw.report(RECORD, folder / "report.html").as_uri()
    for name, width, height, dark in (
        ("report.png", 1180, 700, False),
        ("report-phone.png", 390, 760, True),
    ):
        page = opened(chromium, address, width, height, dark=dark, scale=2 if dark else 1)
        figure = page.locator("figure").first
        figure.scroll_into_view_if_needed()
        wait(page, lambda figure=figure: "alive" in (figure.get_attribute("class") or ""))
        figure.get_by_role("button", name="log scale").first.click()
        place = figure.bounding_box()["y"] + page.evaluate("scrollY")
        page.evaluate("y => scrollTo(0, y)", place - 12 if dark else 0)
        page.mouse.move(2, 2)
        page.wait_for_timeout(500)
        save(page.screenshot(), name)


@contextlib.contextmanager
def explored(folder):
    """Give the address of an explorer of a small run, with a second solution."""
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    loss = torch.nn.CrossEntropyLoss()

    def train(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with tw.Recorder(folder / f"run-{seed}", model, optimizer, tw.Every(steps=72)) as recorder:
            for _ in range(30):
                for batch in torch.randperm(1200).split(50):
                    optimizer.zero_grad()
                    value = loss(model(x[batch]), y[batch])
                    value.backward()
                    optimizer.step()
                    recorder.step(loss=value.item())
        return model, tw.Trajectory.open(folder / f"run-{seed}")

    (model, run), (_, other) = train(0), train(1)
    cost = tw.ModelObjective(
        model,
        loss,
        {"train": (x[:1200], y[:1200]), "valid": (x[1200:], y[1200:])},
        metrics={"error": tw.error_rate},
    )
    solutions = {"other": Solution(other[-1].theta, "other.safetensors", "0" * 64)}
    catalogue = Catalogue(cost, run, solutions, folder / "explorer" / "eigenvectors")
    explorer = Explorer(
        catalogue, Store(folder / "explorer", fingerprint(cost, run)), {"run": "digits"}
    )
    explorer.start()
    try:
        with ExplorerServer(explorer) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield server.address
            finally:
                server.shutdown()
                thread.join()
    finally:
        explorer.stop()


def explorer(chromium, folder):
    """Make the picture of the explorer: the plane of the start and two solutions."""
    with explored(folder) as address:
        page = opened(chromium, address, 760, 700)
        wait(page, lambda: "parameters" in page.locator("#run").inner_text())
        page.locator("#kind").select_option("plane")
        page.locator("#anchor-1").select_option("step 720")
        page.locator("#anchor-2").select_option("solution other")
        page.get_by_role("button", name="Show", exact=True).click()
        for points in (17**2, 33**2):
            wait(page, lambda points=points: in_view(page) >= points)
            page.get_by_role("button", name="More points").click(trial=points > 17**2)
        wait(page, lambda: "is there" in page.locator("#progress").inner_text())
        page.wait_for_timeout(500)
        save(page.screenshot(full_page=True), "explorer.png")


def in_view(page):
    """Return how many points are in view."""
    return int(page.locator("#range").inner_text().split(" ")[0] or 0)


def main():
    """Make all of them."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit(f"A Chromium is needed; there is none of {', '.join(BROWSERS)}.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=list(SOFTWARE))
        report(chromium, Path(folder))
        explorer(chromium, Path(folder))
        chromium.close()


if __name__ == "__main__":
    main()
