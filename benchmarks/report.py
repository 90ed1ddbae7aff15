"""How long a report takes: to be written, to be painted, to show its surface, to turn it.

    python benchmarks/report.py [--scale smoke] [--peers PYTHON] [--output FOLDER]

A surface of 101 x 101 points with a run of 200 points on it (`smoke`: 21 x 21 and 20), as a report
of thalweg and, in the environment of the peers, as a self-contained page of plotly. Both are opened
in one headless Chromium that draws by software, in turn, after one visit that is not counted. The
browser itself tells when it first painted, and when a picture of the surface was on the screen; the
time that one frame takes is that of turning it thirty times. Bytes count what the figures need
beside their data.

Results go to `benchmarks/results/report.json`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from machine import conditions

from thalweg.records import Record, open_record, save_record
from thalweg.results import RunPoints, RunSurface

HERE = Path(__file__).parent
SCALES = {"full": (101, 200, 5), "smoke": (21, 20, 2)}  # points a side, of the run, rounds
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")

_PAINTED = "performance.getEntriesByName('first-contentful-paint')"

PLOTLY = """
import sys, json, time
import numpy as np
import plotly.graph_objects as go
data, path = np.load(sys.argv[1]), sys.argv[2]
clock = time.perf_counter()
figure = go.Figure([
    go.Surface(x=data["along"], y=data["across"], z=data["loss"].T, colorscale="Viridis"),
    go.Scatter3d(x=data["x"], y=data["y"], z=data["z"], mode="lines+markers"),
])
figure.write_html(path, include_plotlyjs=True)
print(json.dumps(time.perf_counter() - clock))
"""

# When is a surface drawn: two frames after the page says that it is there.
WATCH = """
(() => {
  const there = () => document.querySelector("figure.alive .space canvas")
    || document.querySelector(".js-plotly-plot .gl-container canvas");
  const note = () => { window.drawn = performance.now(); };
  const look = () => (there()
    ? requestAnimationFrame(() => requestAnimationFrame(note))
    : requestAnimationFrame(look));
  requestAnimationFrame(look);
})();
"""

TURN = """
async () => {
  const frame = () => new Promise(
    (done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const stage = document.querySelector(".space .stage");
  const plot = document.querySelector(".js-plotly-plot");
  const begin = performance.now();
  for (let k = 0; k < 30; k += 1) {
    const angle = (k * Math.PI) / 36;
    if (stage) stage.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
    else await Plotly.relayout(plot, { "scene.camera.eye":
      { x: 1.6 * Math.cos(angle), y: 1.6 * Math.sin(angle), z: 1 } });
    await frame();
  }
  return (performance.now() - begin) / 30;
}
"""


def surface(side, points):
    """Return a surface with a run on it."""
    along, across = np.linspace(0, 10, side), np.linspace(-4, 4, side)
    valley = 0.1 * (along[:, None] - 8) ** 2 + 0.2 * (across[None] - np.sin(along[:, None])) ** 2
    x = np.linspace(0, 9, points)
    off = 0.8 * np.sin(x)
    loss = 0.1 * (x - 8) ** 2 + 0.2 * (off - np.sin(x)) ** 2
    run = RunPoints(np.arange(points), x, off, 0 * x, loss)
    return RunSurface("plane", along, across, valley, run, length=9.0)


def thalweg_page(picture, folder):
    """Write a report in a process of its own; return its seconds, all imports included."""
    record = save_record(Record(study="surface", results={"run": picture}), folder / "record")
    code = (
        "import sys; from thalweg.reports.page import report; report(*sys.argv[1:]); "
        "assert 'torch' not in sys.modules"
    )
    clock = time.perf_counter()
    page = folder / "thalweg.html"
    subprocess.run([sys.executable, "-c", code, str(record), str(page)], check=True)
    open_record(record)
    return page, time.perf_counter() - clock


def plotly_page(python, picture, folder):
    """Write the same picture as a page of plotly; return its seconds, without the imports."""
    data, page = folder / "data.npz", folder / "plotly.html"
    run, loss = picture.run, picture.loss[picture.first_split]
    values = {"along": picture.along, "across": picture.across, "loss": loss}
    place = {"x": run.projection, "y": run.across, "z": run.loss[picture.first_split]}
    np.savez(data, **values, **place)
    done = subprocess.run(
        [python, "-c", PLOTLY, str(data), str(page)], check=True, capture_output=True, text=True
    )
    return page, json.loads(done.stdout)


def visited(browser, page):
    """Open a page; return milliseconds to the first paint, to the surface, and of a frame."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    try:
        tab = context.new_page()
        tab.add_init_script(WATCH)
        tab.goto(page.as_uri())
        for _ in range(600):
            if tab.evaluate(f"window.drawn && {_PAINTED}.length > 0"):
                break
            tab.wait_for_timeout(100)
        else:
            raise RuntimeError(f"{page.name} drew no surface within a minute.")
        painted = tab.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        return {
            "paint": painted,
            "surface": tab.evaluate("window.drawn"),
            "frame": tab.evaluate(TURN),
        }
    finally:
        context.close()


def measured(pages, rounds, executable):
    """Return for each page the times of each round."""
    from playwright.sync_api import sync_playwright

    times = {name: [] for name in pages}
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=executable, args=list(FLAGS))
        try:
            for number in range(rounds + 1):
                for name, page in pages.items():
                    found = visited(browser, page)
                    if number:
                        times[name].append(found)
        finally:
            browser.close()
    return times


def main(arguments=None):
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--peers", help="a Python with plotly")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    asked = parser.parse_args(arguments)
    executable = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if executable is None:
        print("report: no browser is installed, nothing was measured")
        return
    side, points, rounds = SCALES[asked.scale]
    picture = surface(side, points)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pages, seconds = {}, {}
        pages["thalweg"], seconds["thalweg"] = thalweg_page(picture, folder)
        if asked.peers:
            pages["plotly"], seconds["plotly"] = plotly_page(asked.peers, picture, folder)
        times = measured(pages, rounds, executable)
        sizes = {who: page.stat().st_size for who, page in pages.items()}
    middle = {
        who: {key: median(each[key] for each in rows) for key in rows[0]}
        for who, rows in times.items()
    }
    result = {
        "scale": asked.scale,
        "points": [side, side, points],
        "bytes": sizes,
        "seconds to write": seconds,
        "milliseconds": middle,
        "rounds": times,
        "conditions": conditions(),
    }
    output = asked.output / ("smoke" if asked.scale == "smoke" else "")
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for who, each in middle.items():
        print(
            f"{who}: {sizes[who] / 1e6:.2f} MB, written in {seconds[who]:.2f} s; first paint "
            f"{each['paint']:.0f} ms, surface {each['surface']:.0f} ms, "
            f"a frame {each['frame']:.0f} ms"
        )


if __name__ == "__main__":
    main()
