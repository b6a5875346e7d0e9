"""Run by test_kernels.py in a process of its own, without the interpreter: how torch.compile sees a `.triton` op.

No GPU: the tensors are fake, and Triton is told that it compiles for an sm_90. Prints the graph.
"""

import torch
import triton
from functorch.compile import aot_function
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget

from torchext import kernels  # noqa: F401


class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def printed(graph, inputs):
    print(graph.code)
    return graph


triton.runtime.driver.set_active(Driver())
op = torch.ops.torchext.dropout.triton
with FakeTensorMode():
    x, seed = torch.empty(1000, device="cuda"), torch.empty((), dtype=torch.int64, device="cuda")
    aot_function(lambda x, seed: op(x, seed, 0.5, 2.0, 0.0, 0.0) + 1, printed)(x, seed)
