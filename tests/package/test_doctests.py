"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import neuralgraph

MODULES = sorted(["neuralgraph", *(module.name for module in pkgutil.walk_packages(neuralgraph.__path__, "neuralgraph."))])
WITH_DGL = ("neuralgraph.wiring.wiring",)  # whose examples are of its graphs


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.dgl] * (name in WITH_DGL)) for name in MODULES])
def test_doctest(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


def test_there_are_doctests():
    finder = doctest.DocTestFinder()
    count = sum(bool(test.examples) for name in MODULES
                for test in finder.find(importlib.import_module(name)))
    assert count >= 20
