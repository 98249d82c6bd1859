"""The command doctor: what is installed, what is missing, what fails."""

import sys
from importlib import metadata

import pytest
from click.testing import CliRunner

import neuralgraph as ng
from neuralgraph.backends import BACKENDS, Dense
from neuralgraph.cli import main


def examined(monkeypatch, *requirements, backends=("dense",)):
    """The lines of the command, by name, for a library with these requirements and backends; its exit status."""
    monkeypatch.setattr(metadata, "requires", lambda name: list(requirements))
    for name in set(BACKENDS) - set(backends):
        monkeypatch.delitem(BACKENDS, name)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    rows = [line.split(None, 1) for line in result.output.splitlines() if line.startswith("  ")]
    return {name: text for name, text in rows if name != "backend"}, result.output, result.exit_code


@pytest.mark.dgl
def test_all_works_and_what_is_missing_is_named(monkeypatch):
    rows, output, code = examined(monkeypatch, "torch>=2", "dgl", "pillow", 'nowhere-to-be-found>=1; extra == "plot"',
                                  backends=("dense", "dgl"))
    assert code == 0 and "all that is installed works" in output
    assert rows["neuralgraph"].startswith(ng.__version__) and rows["torch"] == metadata.version("torch")
    assert rows["nowhere-to-be-found"] == "missing: pip install 'neuralgraph[plot]'"
    assert "backend dense       works: as the equations\n  backend dgl         works: as the dense one" in output
    assert rows["compiled"].endswith("works: as the dense backend")
    assert "threads of PyTorch" in rows["processor"] and "ompiled" in rows["kernels"]


@pytest.mark.parametrize("present", [True, False])
def test_matrix_units_are_told(monkeypatch, present):
    units = pytest.importorskip("neuralgraph.kernels.matrix_units")
    monkeypatch.setattr(units, "AVAILABLE", present)
    rows, _, _ = examined(monkeypatch, "torch")
    assert ("matrix units (AMX)" in rows["processor"]) == present


def test_a_hidden_package_is_missing(monkeypatch):
    version = metadata.version

    def hiding(name):
        if name == "onnx":
            raise metadata.PackageNotFoundError(name)
        return version(name)
    monkeypatch.setattr(metadata, "version", hiding)
    rows, _, code = examined(monkeypatch, "numpy>=1.26", 'onnx>=1.16 ; extra == "onnx"')
    assert code == 0 and rows["onnx"] == "missing: pip install 'neuralgraph[onnx]'" and rows["numpy"][0].isdigit()


def test_what_is_installed_and_does_not_load_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    rows, output, code = examined(monkeypatch, "safetensors", 'playwright; extra == "test"')
    assert code == 1 and "1 of these fail" in output
    assert "cannot be imported: ModuleNotFoundError" in rows["safetensors"]


def test_a_backend_that_is_wrong_fails(monkeypatch):
    class Doubling(Dense):
        def propagate(self, *arguments):
            return 2 * super().propagate(*arguments)

    monkeypatch.setitem(BACKENDS, "doubling", Doubling)
    _, output, code = examined(monkeypatch, backends=("dense", "doubling"))
    assert code == 1 and "backend doubling    fails: AssertionError: the output: " in output


def test_a_library_that_is_not_installed_says_so(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)
    monkeypatch.setattr(metadata, "version", missing)
    rows, _, code = examined(monkeypatch)
    monkeypatch.setattr(metadata, "requires", missing)
    result = CliRunner().invoke(main, ["doctor"])
    assert code == result.exit_code == 0 and "is not installed" in result.output


def test_version():
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0 and ng.__version__ in result.output
