"""The import rule: a subpackage imports only from those above it, and some packages are imported in one only."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import neuralgraph
from neuralgraph.selectors import SELECTORS

ROOT = Path(neuralgraph.__file__).parent
SUBPACKAGES = ["kernels", "nodes", "wiring", "selectors", "backends", "networks", "layers", "sharing", "rewiring",
               "models", "plan", "inference", "export", "testing", "analysis", "growing", "data", "training", "compat", "explorer",
               "doctor", "cli"]
FOR_ALL = ["errors", "_version", "_dgl", "_files", "_html", "_modules", "_torch"]  # each may use those before it
ONLY_IN = {"numba": {"kernels"}, "llvmlite": {"kernels"}, "dgl": {"_dgl.py"},
           "torchdiffeq": {"networks/continuous.py"}, "click": {"cli"}, "ray": {"training/ways.py"}}


def imports(path):
    """(absolute dotted module, line) of every import in a file, relative ones resolved."""
    package = ["neuralgraph", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            if node.level and not node.module:  # from .. import name
                for alias in node.names:
                    yield ".".join([*module, alias.name]), node.lineno
            else:
                yield ".".join(module), node.lineno


def subpackage_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def violations():
    for path in sorted(ROOT.rglob("*.py")):
        mine = subpackage_of(path)
        for module, line in imports(path):
            top, *rest = module.split(".")
            place = f"{path.relative_to(ROOT)}:{line} imports {module}"
            allowed = ONLY_IN.get(top)
            where = path.relative_to(ROOT).as_posix()
            if allowed is not None and where not in allowed and mine not in allowed:
                yield place
            if top == "neuralgraph" and rest and mine in SUBPACKAGES and rest[0] not in FOR_ALL:
                if rest[0] not in SUBPACKAGES or SUBPACKAGES.index(rest[0]) > SUBPACKAGES.index(mine):
                    yield place
            if mine in FOR_ALL and top == "neuralgraph" and rest[0] not in FOR_ALL[:FOR_ALL.index(mine)]:
                yield place


def test_subpackages_import_only_from_those_above():
    assert list(violations()) == []


def test_every_subpackage_is_known():
    found = {subpackage_of(path) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert found <= {*SUBPACKAGES, *FOR_ALL, "__main__"}


PUBLIC = [neuralgraph, *(value for value in (getattr(neuralgraph, name) for name in neuralgraph.__all__)
                        if inspect.ismodule(value))]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_a_public_module_shows_what_is_public_and_nothing_else(module):
    assert dir(module) == sorted(set(module.__all__))
    for name in set(module.__all__) - {"__version__"}:
        value = getattr(module, name)
        assert not name.startswith("_") and value is not None
        assert module is neuralgraph or not inspect.ismodule(value)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__.startswith("neuralgraph."), f"{name} is not ours"


def test_the_docstring_of_selectors_names_them_all_by_class():
    text = neuralgraph.selectors.__doc__.partition("By family:")[2].partition("A selector of your own")[0]
    assert set(re.findall(r'"([\w-]+)"', text)) <= set(SELECTORS)
    for name, build in SELECTORS.items():
        kind = getattr(build, "kind", build)
        if kind.__module__.startswith("neuralgraph."):
            line = re.search(rf'"{re.escape(name)}"[^(]*\((\w+)\)', text)
            assert line and line[1] == kind.__name__, f"{name}, a {kind.__name__}, is not among its family"


def test_the_docstring_of_the_package_names_all_that_is_public():
    listed = neuralgraph.__doc__.partition("\n\n- ")[2].partition(">>>")[0]
    assert set(neuralgraph.__all__) - {"__version__"} <= set(re.findall(r"\w+", listed))


def test_docstrings_that_list_backends_list_them_all():
    entry = re.compile(r'^ +backend: (?!str).*"auto".*$', re.M)
    entries = [line for path in ROOT.rglob("*.py") for line in entry.findall(path.read_text())]
    assert len(entries) >= 4
    entries.append(neuralgraph.backends.create.__doc__.partition("\n")[0])
    for line in entries:
        assert set(re.findall(r'"(\w+)"', line)) == set(neuralgraph.backends.BACKENDS), line


def test_generators_are_all_that_wirings_show():
    for name in set(dir(neuralgraph.wirings)) - {"DYNAMIC", "Macro"}:
        returns = inspect.signature(getattr(neuralgraph.wirings, name)).return_annotation
        assert returns in ("Wiring", "Macro"), f"{name} makes {returns}"
