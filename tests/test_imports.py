import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import thalweg

SOURCE = Path(thalweg.__file__).parent

# Who may import whom. A package stands for all of its modules; a module may always import from
# its own package. `errors` and `_version` are free to all. What is not here is not allowed.
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    # torch: from points to costs to results
    "checkpoints": set(),
    "durable": set(),
    "space": {"checkpoints"},
    "directions": {"space"},
    "functions": {"objectives"},
    "grids": {"results"},
    "interpolation": set(),
    "stored": {"checkpoints", "space"},
    "anchors": {"space", "stored"},
    "sections": {"anchors", "directions", "results", "space", "stored", "trajectory"},
    "progress": set(),
    "environment": {"results"},
    "objectives": {"anchors", "environment", "space", "stored"},
    "evaluate": {
        "anchors",
        "durable",
        "environment",
        "grids",
        "interpolation",
        "objectives",
        "progress",
        "results",
        "sections",
        "stored",
    },
    "problems": set(),
    "training": {"durable", "environment", "problems", "progress", "results", "trajectory"},
    "trajectory": {"durable", "environment", "objectives", "results", "space"},
    "probes": {
        "anchors",
        "environment",
        "evaluate",
        "grids",
        "measures",
        "objectives",
        "progress",
        "results",
        "sections",
        "space",
        "stored",
        "trajectory",
    },
    "diagnosis": {
        "environment",
        "evaluate",
        "grids",
        "measures",
        "objectives",
        "probes",
        "progress",
        "results",
        "sections",
        "space",
        "trajectory",
    },
    "factories": {"objectives", "source_files"},
    # the waist and what comes after it: NumPy
    "results": {"interpolation"},
    "measures": {"results"},
    "records": {"durable", "results"},
    "figures": {"records", "results"},
    "reports": {"figures", "records", "results"},
    # what reaches across
    "source_files": set(),
    "studies": {
        "diagnosis",
        "evaluate",
        "functions",
        "grids",
        "measures",
        "objectives",
        "probes",
        "problems",
        "progress",
        "records",
        "results",
        "sections",
        "source_files",
        "space",
        "training",
        "trajectory",
    },
    "explorer": {
        "durable",
        "evaluate",
        "objectives",
        "probes",
        "progress",
        "records",
        "reports",
        "results",
        "sections",
        "space",
        "trajectory",
    },
    "cli": {
        "anchors",
        "diagnosis",
        "evaluate",
        "explorer",
        "factories",
        "figures",
        "grids",
        "measures",
        "objectives",
        "probes",
        "records",
        "reports",
        "results",
        "sections",
        "space",
        "stored",
        "studies",
        "trajectory",
    },
}
FREE = {"errors", "_version"}

PUBLIC = [
    "Adaptive",
    "Around",
    "At",
    "BarrierAbove",
    "BezierCurve",
    "Chebyshev",
    "CheckpointError",
    "ClimbAbove",
    "ConfusionMatrix",
    "CriticalPoint",
    "CriticalPointSearch",
    "Curvature",
    "DataUnavailableError",
    "Diagnosis",
    "Displacement",
    "Estimate",
    "Every",
    "Evidence",
    "Finding",
    "FunctionObjective",
    "History",
    "Interpolation",
    "LayerSignals",
    "Line",
    "Logarithmic",
    "ModelObjective",
    "MonteCarlo",
    "NextToken",
    "NonDeterministicObjectiveError",
    "Objective",
    "ParameterMismatchError",
    "ParameterSpace",
    "PathReading",
    "Plan",
    "Plane",
    "Polyline",
    "Profile",
    "RandomWalkEvidence",
    "Record",
    "RecordError",
    "Recorder",
    "RunSurface",
    "SpectralDensity",
    "SpectralEstimate",
    "Spectrum",
    "StepBudget",
    "StepCurvature",
    "StoredPoint",
    "Subsample",
    "Surface",
    "Trajectory",
    "TrajectoryError",
    "Uniform",
    "Zoom",
    "__version__",
    "barrier",
    "classify",
    "convex_share",
    "curvature",
    "curvature_along",
    "detour_ratio",
    "diagnose",
    "displacement",
    "draw",
    "error_rate",
    "excess_over_random_walk",
    "find_critical_point",
    "functions",
    "greatest_climb",
    "greatest_distance",
    "index_fraction",
    "interior_minima",
    "is_monotone",
    "layer_signals",
    "least_captured_share",
    "open_record",
    "overshoot",
    "packed",
    "padded",
    "path_reading",
    "plan",
    "principal_surface",
    "problems",
    "profile",
    "random_walk",
    "random_walk_displacement",
    "random_walk_evidence",
    "report",
    "ruled_surface",
    "run_plane",
    "save_record",
    "scale_ray",
    "spectral_density",
    "spectrum",
    "step_budget",
    "step_curvature",
    "studies",
    "surface",
    "token_error_rate",
    "trace",
    "training",
    "uphill_interval",
]


def modules():
    """Return every module of the package by its dotted name inside it."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = list(path.relative_to(SOURCE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = modules()


def imported(tree):
    """Return the dotted names inside the package that a module imports, wherever it does so."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports inside the package are absolute"
            # `from thalweg.studies import interpolation` imports a module.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("thalweg.") for name in names if name.startswith("thalweg.")}
    return {name if name in MODULES else name.rpartition(".")[0] for name in inside}


def top(name):
    return name.partition(".")[0]


@cache
def arrows(name):
    return imported(ast.parse(MODULES[name].read_text()))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_the_table_allows(name):
    assert top(name) in {*ALLOWED, *FREE}, f"{name} is not in the table"
    allowed = {*ALLOWED.get(top(name), set()), *FREE, top(name)}
    assert {top(other) for other in arrows(name)} <= allowed


def test_the_table_has_no_entry_for_what_is_not_there():
    present = {top(name) for name in MODULES}
    assert set(ALLOWED) <= present
    used = {(top(name), top(other)) for name in MODULES for other in arrows(name)}
    allowed = {(name, other) for name, others in ALLOWED.items() for other in others}
    assert allowed - used == set()


def cycle_in(graph):
    """Return one cycle of a graph, or None."""
    finished, path = set(), []

    def visit(node):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return None
        path.append(node)
        for other in sorted(graph.get(node, ())):
            if found := visit(other):
                return found
        path.pop()
        finished.add(node)
        return None

    for node in graph:
        if found := visit(node):
            return found
    return None


def at_module_level(name):
    """Return what is imported while a module is read, so that a cycle would break it."""
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    tree.body = [node for node in tree.body if not is_for_types(node)]
    return imported(tree)


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_there_is_no_cycle():
    assert cycle_in({name: at_module_level(name) for name in MODULES}) is None
    between = {}
    for name in MODULES:
        between.setdefault(top(name), set()).update(top(other) for other in arrows(name))
    assert cycle_in({name: others - {name} for name, others in between.items()}) is None


def test_a_cycle_would_be_found():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def outside(tree):
    """Return the packages other than this one that a module imports, wherever it does so."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {top(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(top(node.module))
    return names


def test_nothing_behind_the_waist_imports_torch():
    behind = {"results", "measures", "records", "figures", "reports"}
    users = {n for n in MODULES if "torch" in outside(ast.parse(MODULES[n].read_text()))}
    assert not {top(name) for name in users} & behind
    assert {"space", "objectives.model", "training.classifiers"} <= users


def test_one_module_imports_matplotlib():
    users = {n for n in MODULES if "matplotlib" in outside(ast.parse(MODULES[n].read_text()))}
    assert users == {"figures.draw"}


@pytest.mark.parametrize(
    "name",
    [
        "thalweg",
        "thalweg.results",
        "thalweg.errors",
        "thalweg.grids",
        "thalweg.progress",
        "thalweg.measures",
        "thalweg.records",
        "thalweg.figures",
        "thalweg.reports",
        "thalweg.studies",
        "thalweg.cli",
    ],
)
def test_light_modules_do_not_load_torch(name):
    code = f"import sys, {name}; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_torch_would_be_noticed():
    code = "import sys, thalweg.space; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1


def test_the_public_names_are_these():
    assert sorted(thalweg.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(thalweg))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name):
    assert getattr(thalweg, name) is not None


def test_the_stub_and_the_table_agree():
    tree = ast.parse((SOURCE / "__init__.pyi").read_text())
    names = [a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(names) == PUBLIC
