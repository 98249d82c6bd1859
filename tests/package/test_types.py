"""What type checkers are told: the stub names what is public, and every public signature is annotated."""

import ast
import inspect
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import checkout

import neuralgraph

ROOT = Path(neuralgraph.__file__).parent
SUBPACKAGES = [module.name for module in iter_modules(neuralgraph.__path__) if module.ispkg]


def stub_names():
    """(public name, dotted address in the package) of every name in the stub.

    A checker takes ``import a as a`` for one that is handed on; a name of another kind is assigned.
    """
    private = {}
    for node in ast.parse((ROOT / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                address = ".".join(filter(None, [node.module, alias.name]))
                if alias.asname == alias.name:
                    yield alias.name, address
                else:
                    private[alias.asname] = address
        elif isinstance(node, ast.Assign):
            yield node.targets[0].id, private.pop(node.value.id)
    assert private == {}


def test_the_stub_names_what_is_loaded_lazily():
    lazy = {name: ".".join(filter(None, address)) for name, address in neuralgraph._PUBLIC.items()}
    assert dict(stub_names()) == {**lazy, "__version__": "_version.__version__"}


def test_stub_and_marker_are_installed():
    setup = ConfigParser()
    setup.read(checkout.ROOT / "setup.cfg")
    listed = setup["options.package_data"]["neuralgraph"].split(", ")
    assert set(listed) == {"py.typed", "__init__.pyi"}
    assert all((ROOT / name).is_file() for name in listed)


def public_things():
    """(name, function or class) of what is public, in the package and its subpackages."""
    for name in neuralgraph._PUBLIC:
        yield name, getattr(neuralgraph, name)
    for module in [neuralgraph.wirings, neuralgraph.plots, neuralgraph.errors,
                   *(import_module(f"neuralgraph.{name}") for name in SUBPACKAGES)]:
        for name in getattr(module, "__all__", vars(module)):
            if not name.startswith("_"):
                yield f"{module.__name__}.{name}", getattr(module, name)


def functions_of(name, thing):
    """(name, function) of a function, or of a class's constructor and public methods and properties."""
    if inspect.isclass(thing):
        own = {key: member for base in reversed(thing.__mro__) for key, member in vars(base).items()}
        for key, member in own.items():
            if key == "__init__" or not key.startswith("_"):
                function = getattr(member, "fget", None) or getattr(member, "func", None) or member
                yield f"{name}.{key}", inspect.unwrap(getattr(function, "__func__", function))
    elif callable(thing):
        yield name, inspect.unwrap(thing)


def public_functions():
    """{function: its name} of all that are written here, not by torch or by dataclasses."""
    return {function: name for public, thing in public_things() for name, function in functions_of(public, thing)
            if inspect.isfunction(function) and Path(function.__code__.co_filename).is_relative_to(ROOT)}


def not_annotated(function):
    takes = inspect.signature(function).parameters.values()
    lacks = [parameter.name for parameter in takes
             if parameter.annotation is inspect.Parameter.empty and parameter.name not in ("self", "cls")]
    gives = "return" in function.__annotations__ or function.__name__ == "__init__"
    return lacks if gives else [*lacks, "return"]


def test_every_public_signature_is_annotated():
    functions = public_functions()
    assert len(functions) > 400
    assert {name: lacks for function, name in functions.items() if (lacks := not_annotated(function))} == {}
