"""What tests of compiled networks share."""

import pytest
import torch

from neuralgraph.inference.layout import ProgramLayout


@pytest.fixture(scope="module")
def poisoned():
    """Memory in which what was never written is not a number; but for the zeros around the data."""
    workspace = ProgramLayout._workspace

    def filled(layout):
        space, private = workspace(layout)
        if not len(layout.before):
            space[:, :layout.maps].fill_(torch.nan)
        private[:, :layout.between].fill_(torch.nan)
        return space, private

    ProgramLayout._workspace = filled
    yield
    ProgramLayout._workspace = workspace
