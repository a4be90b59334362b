"""The house: imports run one way, and nothing goes round in a circle."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.conftest import ROOT

# Each may import what stands before it and what stands beside it.
STOREYS = ("ground", "run", "model", "data", "judge", "report", "outside")


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FOLDERS = ("playground", "bench", "base_model")
MODULES = {
    name_of(path): path for path in [*ROOT.glob("*.py"), *(p for f in FOLDERS for p in ROOT.glob(f"{f}/**/*.py"))]
}


def storey(module):
    first, *rest = module.split(".")
    if first not in ("tools", "playground") or rest == ["__main__"]:
        return "outside"
    return "ground" if len(rest) < 2 or rest[0] == "grammar" else rest[0]


def imports(module):
    """The project's modules that one imports, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        found.update(name for name in names if name in MODULES)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_up(module):
    storeys = {other: STOREYS.index(storey(other)) for other in imports(module)}
    assert [other for other, its in storeys.items() if its > STOREYS.index(storey(module))] == []


def test_no_module_imports_itself_round_corners():
    tuple(TopologicalSorter({module: imports(module) for module in MODULES}).static_order())  # raises for a circle


def test_no_script_imports_another():
    scripts = {module for module in MODULES if "." not in module} - {"tools", "playground", "bench", "base_model"}
    assert len(scripts) == 8
    assert not scripts & {other for module in MODULES for other in imports(module)}


def test_the_grammar_imports_nothing_of_the_project():
    for module in MODULES:
        if module.startswith("playground.grammar"):
            assert all(other.startswith("playground.grammar") for other in imports(module)), module


def test_a_package_itself_holds_no_code_and_no_names_of_its_modules():
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module != "playground.grammar":
            assert len(ast.parse(path.read_text(encoding="utf-8")).body) == 1, module


def test_threads_are_told_how_long_to_spin_before_torch_is_loaded():
    names = [path.stem for path in sorted(ROOT.glob("0*.py"))]
    code = f"import importlib, os, sys; [importlib.import_module(name) for name in {names}]; "
    code += "print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "20000"]
