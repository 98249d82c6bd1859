"""The import rule: a room imports only from rooms above it, and some packages only at one place."""

import ast
from pathlib import Path

import neuralgraph

ROOT = Path(neuralgraph.__file__).parent
ROOMS = ["kernels", "nodes", "wiring", "selectors", "backends", "networks", "layers", "sharing", "rewiring", "models",
         "plan", "inference", "export", "testing", "analysis", "growing", "data", "training", "compat", "explorer", "doctor", "cli"]
FOR_ALL = ["errors", "_version", "_dgl", "_files", "_html", "_modules"]  # each may use those before it
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


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def violations():
    for path in sorted(ROOT.rglob("*.py")):
        mine = room_of(path)
        for module, line in imports(path):
            top, *rest = module.split(".")
            place = f"{path.relative_to(ROOT)}:{line} imports {module}"
            allowed = ONLY_IN.get(top)
            where = path.relative_to(ROOT).as_posix()
            if allowed is not None and where not in allowed and mine not in allowed:
                yield place
            if top == "neuralgraph" and rest and mine in ROOMS and rest[0] not in FOR_ALL:
                if rest[0] not in ROOMS or ROOMS.index(rest[0]) > ROOMS.index(mine):
                    yield place
            if mine in FOR_ALL and top == "neuralgraph" and rest[0] not in FOR_ALL[:FOR_ALL.index(mine)]:
                yield place


def test_rooms_import_only_from_rooms_above():
    assert list(violations()) == []


def test_every_room_is_known():
    rooms = {room_of(path) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert rooms <= {*ROOMS, *FOR_ALL, "__main__"}


def test_public_names_exist():
    for name in neuralgraph.__all__:
        assert getattr(neuralgraph, name) is not None
    assert set(neuralgraph.__all__) <= set(dir(neuralgraph))
