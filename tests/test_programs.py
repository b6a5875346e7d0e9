"""Users' programs give with ours what they give with stock, on every backend a user has."""

import pytest
import torch
from programs import WHAT_IS_SAVED, WHO_SEES
from programs_with_tools import TOOLS
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F

PROGRAMS = WHO_SEES | WHAT_IS_SAVED | TOOLS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["native", "auto"])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_gives_the_same_result(program, backend):
    torch.manual_seed(0)
    want = program(torch.nn, stock_F)
    torch.manual_seed(0)
    with torchext.backend(backend):
        got = program(nn, F)
    if isinstance(want, torch.Tensor):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    else:
        assert got == want
