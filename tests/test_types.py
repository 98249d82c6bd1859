"""What type checkers are told: the stub names what is public."""

import ast
import inspect
from configparser import ConfigParser
from pathlib import Path

import neuralgraph

ROOT = Path(neuralgraph.__file__).parent


def stub_names():
    """(public name, dotted address in the package) of every name in the stub."""
    for node in ast.parse((ROOT / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname, ".".join(filter(None, [node.module, alias.name]))


def test_the_stub_names_what_is_loaded_lazily():
    lazy = {name: ".".join(filter(None, address)) for name, address in neuralgraph._PUBLIC.items()}
    assert dict(stub_names()) == {**lazy, "__version__": "_version.__version__"}


def test_stub_and_marker_are_installed():
    setup = ConfigParser()
    setup.read(ROOT.parent / "setup.cfg")
    listed = setup["options.package_data"]["neuralgraph"].split(", ")
    assert set(listed) == {"py.typed", "__init__.pyi"}
    assert all((ROOT / name).is_file() for name in listed)
