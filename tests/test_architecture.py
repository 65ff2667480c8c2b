"""The shape of the project, kept by a test: direction of imports, lean imports, sizes, verbs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for d in ("costs", "plinio_sweep") for p in (ROOT / d).rglob("*.py"))

# What each package of ours may import of ours, itself aside. Everything else is a mistake.
MAY_IMPORT = {
    "costs": set(),
    "settings": set(),
    "graph": {"costs"},
    "methods": {"costs", "graph"},
    "train": {"costs", "graph", "methods"},
    "sweep": {"costs", "graph", "methods", "train", "settings", "ship"},
    "store": {"settings", "sweep", "train"},
    "view": {"settings", "sweep"},
    "ship": {"graph"},
    "plugin": {"sweep"},
    "engine": {"plugin", "settings", "store", "sweep", "view"},
    "commands": {
        *("costs", "engine", "graph", "methods", "plugin", "settings"),
        *("ship", "store", "sweep", "train", "view"),
    },
    "cli": {"commands", "settings", "sweep", "view"},
    "__init__": {"graph", "methods", "ship", "sweep", "train"},
}
# Who may import a large library, at all.
ONLY_IN = {
    "mlflow": {
        *("store/mlflow_model.py", "store/mlflow_runs.py", "store/registry.py"),
        "store/tracking.py",
    },
    "optuna": {
        *("sweep/claims.py", "sweep/confirm.py", "sweep/connect.py", "sweep/drift.py"),
        "sweep/drive.py",
        *("sweep/fixed.py", "sweep/needs.py", "sweep/opening.py", "sweep/reading.py"),
        *("sweep/space.py", "sweep/storage.py", "sweep/study.py", "sweep/tracker.py"),
        *("view/dashboard.py", "commands/serve.py"),
    },
    "optuna_dashboard": {"view/dashboard.py", "view/mended.py"},
    "moocore": {"view/front.py"},
    "matplotlib": {"view/figure.py"},
    "plotly": {
        *("view/figure.py", "view/panels/style.py", "view/panels/heatmap.py"),
        *("view/panels/progress.py", "view/panels/strengths.py"),
    },
    "onnx": {"ship/quantized_onnx.py"},
    "onnxruntime": {"ship/onnx.py"},
    "submitit": {"engine/slurm.py"},
    "ray": {"engine/ray.py"},
    "networkx": set(),
    "fsspec": {"store/link.py"},
    "s3fs": set(),
    "scipy": {"view/confirm.py"},
}


def imports(path: Path) -> set[str]:
    """Every module that the file at `path` imports anywhere, by full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def part(name: str) -> str:
    """The package of ours that a module belongs to."""
    words = name.split(".")
    return words[0] if words[0] == "costs" else words[1] if len(words) > 1 else "__init__"


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_go_one_way(path: Path) -> None:
    own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    ours = {part(n) for n in imports(path) if n.split(".")[0] in ("costs", "plinio_sweep")}
    names = {p for p in ours if p in MAY_IMPORT and p != "__init__"}
    assert names - {own} <= MAY_IMPORT[own]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_large_library_has_one_home(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    place = path.relative_to(ROOT).as_posix().removeprefix("plinio_sweep/")
    assert {lib for lib, homes in ONLY_IN.items() if lib in used and place not in homes} == set()


def test_costs_know_torch_and_nothing_else() -> None:
    used = {n.split(".")[0] for p in (ROOT / "costs").glob("*.py") for n in imports(p)}
    assert used - set(sys.stdlib_module_names) <= {"torch", "costs"}


def test_studies_are_never_imported_by_the_library() -> None:
    assert not [p for p in SOURCES if any(n.split(".")[0] == "studies" for n in imports(p))]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("plinio_sweep", "torch optuna mlflow rich numpy"),
        ("plinio_sweep.cli", "torch optuna mlflow rich numpy"),
        ("plinio_sweep.settings", "torch optuna"),
        ("plinio_sweep.view.front", "torch optuna numpy"),
        ("plinio_sweep.view.report", "torch optuna"),
        ("plinio_sweep.view.page_data", "torch optuna plotly matplotlib"),
        ("plinio_sweep.sweep.reading", "torch mlflow"),
        ("plinio_sweep.engine.local", "torch optuna mlflow"),
        ("plinio_sweep.commands.run", "torch optuna mlflow submitit ray"),
    ],
)
def test_a_module_loads_without_what_it_does_not_need(module: str, absent: str) -> None:
    program = (
        f"import sys, {module}; found = [n for n in {absent.split()} if n in sys.modules]; "
        f"sys.exit(f'{module} loads {{found}}' if found else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def code_lines(source: str, node: ast.AST | None = None) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    tree = node or ast.parse(source)
    docs: set[int] = set()
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant):
            docs |= set(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    lines = source.splitlines()
    first = getattr(tree, "lineno", 1)
    last = getattr(tree, "end_lineno", len(lines)) or len(lines)
    kept = [i for i in range(first, last + 1) if i not in docs]
    return sum(bool(s := lines[i - 1].strip()) and not s.startswith("#") for i in kept)


def ninth_decile(sizes: list[int]) -> int:
    return sorted(sizes)[int(0.9 * (len(sizes) - 1))]


def test_nine_files_of_ten_stay_below_300_lines() -> None:
    sizes = [code_lines(path.read_text(encoding="utf-8")) for path in SOURCES]
    assert ninth_decile(sizes) <= 300


def test_nine_functions_of_ten_stay_below_40_lines() -> None:
    sizes = []
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        functions = ast.FunctionDef | ast.AsyncFunctionDef
        tree = ast.parse(source)
        sizes += [code_lines(source, n) for n in ast.walk(tree) if isinstance(n, functions)]
    assert ninth_decile(sizes) <= 40
