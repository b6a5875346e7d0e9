"""What linear_cross_entropy launches on a GPU, and the global memory its own kernels read and write, by csrc/simt."""

import pytest
import torch
from matrix import needs_simt
from traffic import launches

pytestmark = needs_simt
ops = torch.ops.torchext


def run(dtype, n, k, c, chunk, wanted):
    x, w, b, target = torch.randn(n, k), torch.randn(c, k), torch.randn(c), torch.randint(c, (n,))
    arguments = (*(t.to(dtype) for t in (x, w, b)), target, None, -100, 0.0, 1, chunk, *wanted)
    return launches(lambda: ops.linear_cross_entropy.simt(*arguments))


# The first share of three is only written to the accumulators, the second is added, the third ends in the result.
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_shares_are_added_with_the_least_traffic(dtype):
    done = [x for x in run(dtype, 12, 16, 40, 4, (False, True, False)) if x["kernel"].startswith("add_share_kernel")]
    share, sums = 40 * 16 * dtype.itemsize, 40 * 16 * 4
    moved = [(x["read"], x["written"]) for x in done]
    assert moved == [(share, sums), (share + sums, sums), (share + sums, share)]


def test_only_what_is_wanted_is_launched():
    names = [x["kernel"].split("<")[0] for x in run(torch.float32, 12, 16, 40, 6, (False, False, False))]
    assert names == [*["matmul_kernel", "softmax_rows_kernel"] * 2, "total_kernel"]
    names = [x["kernel"].split("<")[0] for x in run(torch.float32, 12, 16, 40, 12, (True, True, False))]
    assert names.count("matmul_kernel") == 3 and "add_share_kernel" not in names
    assert names[0] == "target_weight_kernel" and names[-4] == "gradient_rows_kernel"


def test_the_means_divisor_reads_each_target_once():
    first = run(torch.float32, 2000, 4, 8, 2000, (True, False, False))[0]
    assert first["kernel"].startswith("target_weight_kernel")
    assert (first["read"], first["written"]) == (2000 * 8, 4)
