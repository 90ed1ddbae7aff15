"""One table and one figure of what `run.py` and the other measurements have written.

    python benchmarks/table.py [--scale full|smoke]

The full scale is drawn in `docs/images/benchmarks.png`, the smoke scale beside its results.

Every ratio is a median over the rounds of ratios within a round, with the smallest and largest.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from instructions import instructions_table
from points_needed import points_table

HERE = Path(__file__).parent
ORDER = ["line", "plane", "mnist-plane", "resnet", "lstm"]
WAYS = ("exact", "adaptive", "estimated")
USUAL = "usual loop"
USUAL_VARIANT = "batch 128"
# Strategies that compute the products of the first layer once an anchor, not once a point.
SHARING = ("first-layer reuse", "stacked products")
ALONE = ("plain", "sequential", "vmap")


@dataclass(frozen=True)
class Ratio:
    """How many times as fast, as a median over rounds, and from the least to the most."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        middle, least, most = map(brief, (self.middle, self.least, self.most))
        return f"**{middle}x** ({least} to {most})"


def brief(number):
    """Return a number with two digits at least, and none that means nothing."""
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def ratio(rounds, who, against):
    """Return how many times as fast as others somebody is; the fastest of them in each round."""
    values = [min(times[name] for name in against) / times[who] for times in rounds]
    return Ratio(median(values), min(values), max(values))


def best_variant(result):
    """Return the fastest form of the usual loop, and its time as a share of the usual form's."""
    seconds = result["seconds a point of the usual loop"]
    name = min(seconds, key=seconds.get)
    return name, seconds[name] / seconds[USUAL_VARIANT]


def peers_of(result):
    """Return the names of the packages that ran beside."""
    return [who for who in result["rounds"][0] if who not in (USUAL, *WAYS)]


def share_of_rate(result, who):
    """Return the products that somebody must compute, as a share of what the machine computes.

    None where their number is not known: an adaptive section shares work within each of its
    refinements, and an estimate evaluates some points on all examples and others on few.
    """
    every, first = result["operations an example"].values()
    points, strategy = result["points"], result["strategy"]
    if who == USUAL or (who == "exact" and strategy in ALONE):
        operations = every * points
    elif who == "exact" and strategy in SHARING:
        operations = first * result["anchors"] + (every - first) * points
    else:
        return None
    seconds = median(times[who] for times in result["rounds"])
    rate = result["limits"]["products (GFLOP/s)"] * 1e9
    share = operations * result["examples"] / seconds / rate
    # Nobody is faster than the machine, unless that was busy when its rate was measured.
    return share if share <= 1.05 else None


def accuracy(result, who):
    """Return in words how far a way's values are from exact ones."""
    if who == "exact":
        return "agrees to 2e-5"
    facts = result["checks"][who]
    if who == "adaptive":
        dense = f"{facts['dense points']} dense points"
        if facts["examples of the check"] != result["examples"]:
            dense += f", {facts['examples of the check']} examples"
        lacks = "" if facts["converged"] else "; **not converged**"
        return (
            f"error {facts['error']:.1e} of the range (asked {facts['tolerance']:g}, bound "
            f"{facts['bound']:.1e}; {dense}{lacks})"
        )
    holds = "holds at all points" if facts["holds"] else "**does not hold**"
    return f"error {facts['error']:.1e} of the range; interval ±{facts['half width']:.1e} {holds}"


def row(result, who):
    """Return one row of the table, cell by cell."""
    rounds, memory = result["rounds"], result["memory (MiB)"]
    name, faster = best_variant(result)
    alone = len(result["seconds a point of the usual loop"]) == 1
    against_usual, peers = ratio(rounds, who, [USUAL]), peers_of(result)
    variant = "–" if alone else f"{brief(against_usual.middle * faster)}x ({name})"
    peer = "–"
    if peers:
        best = min(peers, key=lambda each: median(times[each] for times in rounds))
        peer = f"{brief(ratio(rounds, who, peers).middle)}x ({best})"
    points = result["checks"]["adaptive"]["points"] if who == "adaptive" else result["points"]
    shares = [share_of_rate(result, each) for each in (who, USUAL)]
    share = " / ".join("–" if each is None else f"{100 * each:.0f} %" for each in shares)
    held = " / ".join(f"{memory[each]:.0f}" if each in memory else "–" for each in HOLDERS)
    strategy = f"{who}, {result['strategy']}" if who == "exact" else who
    title = result["title"] + (" (noise)" if result["data"] == "noise" else "")
    return [
        title,
        strategy,
        str(against_usual),
        variant,
        peer,
        accuracy(result, who),
        str(points),
        held,
        share,
    ]


HOLDERS = ("thalweg", USUAL)
HEADINGS = [
    "workload",
    "strategy",
    "against the usual loop",
    "against its best form",
    "against the best peer",
    "accuracy",
    "points",
    "peak memory, MiB, thalweg / usual loop",
    "share of the product rate, thalweg / usual loop",
]


def markdown(headings, rows):
    """Return a table, line by line."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def conditions(results):
    """Return in one sentence each what the machines were."""
    told = []
    for result in results:
        facts, limits = result["conditions"], result["limits"]
        where = facts.get("gpu") or f"{facts['threads']} cores of {facts['cpu']}"
        bounds = [limits["products (GFLOP/s)"], limits["copies (GB/s)"]]
        told.append(
            f"{result['name']}: {facts['date']}, {where}, torch {facts['torch']}, Python "
            f"{facts['python']}, thalweg {facts['thalweg']}, float32; {len(result['rounds'])} "
            f"rounds; the usual loop timed on {result['timed points of the usual loop']} of "
            f"{result['points']} points; products {bounds[0]:.0f} "
            f"GFLOP/s, copies {bounds[1]:.1f} GB/s."
        )
    return told


WRITTEN = """\
Written by `make bench` from what the scripts in `benchmarks/` have measured; do not edit."""

NOTES = """\
Ratios are medians over the rounds, each of which evaluates the workload by every contestant in
turn; in brackets the smallest and the largest. The usual loop sets parameters with
`load_state_dict` and passes a `DataLoader` with a batch of 128 and no workers, point by point; its
best form is the fastest of batches of 128 and 1000 with 0 and 2 workers. Peers run in an
environment of their own, each in the way that is fastest for it. Thalweg's time contains building
and checking the objective and choosing a strategy. Memory is the peak of a fresh process from
where the data has been loaded, torch included; on a GPU it is that of the GPU. Products that are
shared among points are counted once."""


def page(results, measured):
    """Return the whole page as Markdown."""
    lines = ["# Benchmarks", "", WRITTEN, ""]
    if results:
        rows = [row(result, who) for result in results for who in WAYS if has(result, who)]
        lines += [*markdown(HEADINGS, rows), "", NOTES, ""]
        lines += [f"- {told}" for told in conditions(results)] + [""]
    if "points_needed" in measured:
        lines += ["## Points that a tolerance takes", "", *points_table(measured["points_needed"])]
        lines += [""]
    if "instructions" in measured:
        lines += ["## Instructions a point", "", *instructions_table(measured["instructions"]), ""]
    if "recording" in measured:
        lines += ["## What recording costs", "", *recording_table(measured["recording"]), ""]
    if "displacement" in measured:
        lines += ["## The displacement of a large run", "", displaced(measured["displacement"]), ""]
    if "curvature" in measured:
        lines += ["## Products with the Hessian", "", *curvature_table(measured["curvature"]), ""]
    if "report" in measured:
        lines += ["## The report", "", *report_table(measured["report"]), ""]
    return "\n".join(lines)


def report_table(result):
    """Return what a page takes to be written, painted and turned, line by line."""
    side, _, points = result["points"]
    lines = [
        "| page | MB | written (s) | first paint (ms) | surface (ms) | a frame (ms) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for who, times in result["milliseconds"].items():
        size, written = result["bytes"][who] / 1e6, result["seconds to write"][who]
        cells = [f"{size:.2f}", f"{written:.2f}", *(f"{times[k]:.0f}" for k in times)]
        lines.append(f"| {who} | {' | '.join(cells)} |")
    facts = result["conditions"]
    return [
        *lines,
        "",
        f"A surface of {side} x {side} points with a run of {points}, in a headless Chromium that "
        f"draws by software; medians of {len(result['rounds']['thalweg'])} rounds; "
        f"{facts['date']}, {facts['cpu']}. The time to write is that of a whole process with all "
        "imports for thalweg, and without imports for others.",
    ]


def curvature_table(result):
    """Return what a product costs everybody, in units of a gradient, line by line."""
    names = ("one product", "eight products", *(f"{n}, nothing kept" for n in ("one", "eight")))
    keys = (*names[:2], "one product, nothing kept", "eight products, nothing kept")
    rows = [
        [each["network"], f"{each['parameters']:,}", who]
        + [brief(costs[key]) if key in costs else "–" for key in keys]
        for each in result["networks"]
        for who, costs in each["gradients a product"].items()
    ]
    headings = ["network", "parameters", "by", "one", "each of eight", *names[2:]]
    facts = result["conditions"]
    told = (
        "Seconds a product over those of a plain gradient on the same batches in the same round, "
        f"medians of {len(result['networks'][0]['rounds'])} rounds; {facts['date']}, "
        f"{facts['threads']} cores of {facts['cpu']}, torch {facts['torch']}, float32. The pass "
        "that keeps graphs takes "
        + ", ".join(
            f"{brief(each['pass that keeps graphs (gradients)'])} gradients ({each['network']})"
            for each in result["networks"]
        )
        + "; peers keep nothing."
    )
    return [*markdown(headings, rows), "", told, "", *eigenvalue_table(result)]


def eigenvalue_table(result):
    """Return what the largest eigenvalues, and curvature along a line, take, line by line."""
    rows = [
        [
            each["network"],
            who,
            str(count),
            f"{facts['gradients']:.0f}",
            f"{max(facts['residuals']):.1e}",
        ]
        for each in result["networks"]
        for who, found in each["eigenvalues"].items()
        for count, facts in (found or {}).items()
    ]
    lines = ", ".join(
        f"{each['line (gradients a point)']:.2f} gradients a point ({each['network']})"
        for each in result["networks"]
    )
    told = (
        "Seconds over those of a gradient; greatest residual ‖Hv − λv‖ as a share of the largest "
        'eigenvalue, computed in float64 by plain double backward. "thalweg, none missed" also '
        "rules out that a copy of a multiple eigenvalue was missed, and takes a product for each "
        "residual: no peer does either. "
        f"Value, slope and curvature along a line: {lines}."
    )
    headings = ["network", "by", "largest eigenvalues", "gradients", "greatest residual"]
    return [*markdown(headings, rows), "", told]


def recording_table(result):
    """Return what a recorder takes of a training run, line by line."""
    rows = [
        [
            name,
            f"{100 * way['share (median)']:+.1f} % ({100 * way['share (range)'][0]:+.1f} to "
            f"{100 * way['share (range)'][1]:+.1f})",
            f"{100 * way['share of own calls (median)']:.2f} %",
            f"{way['bytes a point'] / 1e6:.3g} MB",
        ]
        for name, way in result["ways"].items()
    ]
    headings = ["recorded", "time of training, paired", "time in the recorder's calls", "a point"]
    kills = result.get("kills")
    told = (
        f"{result['network']} ({result['parameters']:,} parameters) on {result['data']}, batches "
        f"of {result['batch']}, {result['steps of an epoch']} steps an epoch; "
        f"{len(next(iter(result['ways'].values()))['rounds'])} rounds, "
        f"{result['conditions']['date']}, {result['conditions']['threads']} cores of "
        f"{result['conditions']['cpu']}. The norm of the gradient is taken in the optimiser's "
        "step: it is in the paired time alone."
    )
    lost = (
        f" Of {kills['kills']} processes killed while they recorded, {kills['opened']} left a "
        f"trajectory that opened; {kills['points checked']:,} reported points were looked for, "
        f"{kills['lost']} were lost, and the run that went on after each kill ended with the bits "
        "of one that nobody killed."
        if kills
        else ""
    )
    return [*markdown(headings, rows), "", told + lost]


def displaced(result):
    """Return in words how fast the displacement of a large run is."""
    rates = {name: median(each) / 1e9 for name, each in result["bytes a second"].items()}
    return (
        f"{result['snapshots']:,} snapshots of {result['parameters']:,} parameters "
        f"({result['bytes'] / 1e9:.1f} GB in float32, from disk, "
        f"{result['conditions']['threads']} cores of {result['conditions']['cpu']}): "
        f"`tw.displacement` reads {rates['displacement']:.2f} GB/s in each of its two passes, a "
        f"plain sequential read {rates['plain read']:.2f} GB/s; peak memory "
        f"{result['memory (MiB)']:.0f} MiB. What bounds it is the arithmetic in float64."
    )


def has(result, who):
    """Say whether somebody took part."""
    return who in result["rounds"][0]


def read(folder):
    """Return the results of `run.py` in order, and those of the other measurements by name."""
    found = {place.stem: json.loads(place.read_text()) for place in sorted(folder.glob("*.json"))}
    measured = {name: found.pop(name) for name in OTHERS if name in found}
    place = {name: number for number, name in enumerate(ORDER)}
    order = sorted(found.values(), key=lambda each: (each["device"] != "cpu", place[each["name"]]))
    return order, measured


OTHERS = ("points_needed", "instructions", "recording", "displacement", "curvature", "report")


def bars(result):
    """Return name and ratio against the usual loop of everybody, slowest kind first."""
    name, faster = best_variant(result)
    found = []
    if name != USUAL_VARIANT:
        found.append((f"usual loop, {name}", Ratio(*[1 / faster] * 3), "usual"))
    found += [(who, ratio(result["rounds"], who, [USUAL]), "peer") for who in peers_of(result)]
    for who in WAYS:
        if has(result, who):
            found.append((f"thalweg, {who}", ratio(result["rounds"], who, [USUAL]), who))
    return found


# Okabe and Ito (2008): told apart with any kind of colour vision. Names stand by the bars.
COLOURS = {
    "usual": "#999999",
    "peer": "#E69F00",
    "exact": "#0072B2",
    "adaptive": "#009E73",
    "estimated": "#CC79A7",
}


def draw(results, place):
    """Draw how many times as fast as the usual loop everybody is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = [(result, bars(result)) for result in results]
    height = sum(len(each) for _, each in groups) * 0.27 + len(groups) * 0.42 + 0.9
    figure, axes = pyplot.subplots(figsize=(8.2, height), layout="constrained")
    y, most = 0.0, max(r.most for _, each in groups for _, r, _ in each)
    for result, each in groups:
        gpu = result["conditions"].get("gpu")
        title = result["title"] + (f", on {gpu}" if gpu else "")
        axes.text(1.03, y, title, weight="bold", size=9, va="center", ha="left")
        for name, value, kind in each:
            y += 1
            axes.barh(y, value.middle - 1, left=1, height=0.78, color=COLOURS[kind])
            if value.most > value.least:
                axes.plot([value.least, value.most], [y, y], color="black", linewidth=1)
            end = max(value.most, value.middle, 1)
            axes.text(end * 1.04, y, f"{brief(value.middle)}x", size=8, va="center")
            axes.text(-0.01, y, name, size=8, va="center", ha="right", transform=across(axes))
        y += 1.6
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", ylim=(y - 0.8, -0.8), yticks=[])
    axes.set_xlim(min(0.5, *(r.least for _, each in groups for _, r, _ in each)) * 0.9, most * 1.6)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if t <= most * 1.5]
    ticks = [t for t in ticks if t >= axes.get_xlim()[0]]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("speed against the usual loop (batch 128), medians; lines from least to most")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def across(axes):
    """Return coordinates that are shares of the axes along x, and those of the data along y."""
    return axes.get_yaxis_transform()


def main():
    """Write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=["smoke", "full"], default="full")
    parser.add_argument("--results", type=Path, help="a folder of results")
    parser.add_argument("--image", type=Path, help="where to draw")
    options = parser.parse_args()
    full = options.scale == "full"
    folder = options.results or HERE / "results" / ("" if full else "smoke")
    images = HERE.parent / "docs" / "images" if full else folder
    image = options.image or images / "benchmarks.png"
    results, measured = read(folder)
    place = folder / "README.md"
    place.write_text(page(results, measured))
    print(place)
    if results:
        draw(results, image)
        print(image)


if __name__ == "__main__":
    main()
