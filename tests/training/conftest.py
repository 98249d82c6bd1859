"""A training that nobody disturbed, once for all files of this folder."""

import dataclasses
import shutil

import pytest
from quick import QUICK

import neuralgraph as ng
from neuralgraph.training import Run


@pytest.fixture(scope="session")
def data():
    full = ng.data.load("digits")
    return dataclasses.replace(full, train_images=full.train_images[:100],
                               train_labels=full.train_labels[:100], test_images=full.test_images[:50],
                               test_labels=full.test_labels[:50])


@pytest.fixture(scope="session")
def undisturbed(data, tmp_path_factory):
    run = Run.create(QUICK, tmp_path_factory.mktemp("runs") / "whole", data)
    run.train()
    return run


@pytest.fixture
def copied(undisturbed, tmp_path):
    shutil.copytree(undisturbed.folder, tmp_path / "copy")
    return tmp_path / "copy"
