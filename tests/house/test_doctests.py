"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import neuralgraph

MODULES = sorted(module.name for module in
                 pkgutil.walk_packages(neuralgraph.__path__, "neuralgraph."))


@pytest.mark.parametrize("name", MODULES)
def test_doctest(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


def test_there_are_doctests():
    finder = doctest.DocTestFinder()
    count = sum(bool(test.examples) for name in MODULES
                for test in finder.find(importlib.import_module(name)))
    assert count >= 20
