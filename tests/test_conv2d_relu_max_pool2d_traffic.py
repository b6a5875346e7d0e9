"""Bytes of global memory that conv2d_relu_max_pool2d's launches move, counted by csrc/simt, against the least."""

import pytest
import torch
from matrix import needs_simt
from traffic import launches

pytestmark = needs_simt
ops = torch.ops.torchext

# x, w, padding; into how many slices of results' channels the weight gradient is cut: x is read once for each.
LAYERS = {
    "LeNet's first": ((9, 1, 28, 28), (6, 1, 5, 5), 0, 1),
    "LeNet's second": ((9, 6, 12, 12), (16, 6, 5, 5), 0, 1),
    "CNN's first": ((5, 1, 28, 28), (16, 1, 5, 5), 2, 1),
    "CNN's second": ((3, 16, 14, 14), (32, 16, 5, 5), 2, 2),
}


class Moved:
    """What one layer's launches moved, and the bytes of what they must move."""

    def __init__(self, layer, dtype, last, want_dx=True, want_dw=True):
        x, w, padding, self.slices = LAYERS[layer]
        x, w, b = (torch.randn(size).to(dtype) for size in (x, w, w[:1]))
        x = x.to(memory_format=torch.channels_last) if last else x
        options = [1, 1], [padding, padding], [1, 1], 1, [2, 2], [2, 2], [0, 0]
        wanted = want_dx, want_dw, want_dw

        def both():
            y, offsets = ops.conv2d_relu_max_pool2d.simt(x, w, b, *options, False)
            ops.conv2d_relu_max_pool2d_backward.simt(y, offsets, x, w, *options, *wanted)
            self.results = y.numel()

        self.forward, *self.backward = launches(both)
        size = x.element_size()
        self.x, self.w, self.b = (t.numel() * size for t in (x, w, b))
        self.y = self.results * (size + 1)
        self.sums = 4 * (w.numel() + b.numel())

    def counts(self):
        return [(launch["read"], launch["written"]) for launch in (self.forward, *self.backward)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_images_and_results_move_once_and_filters_once_a_block(layer, dtype, last):
    """At most two blocks per processor load the filters, twice, however many images there are."""
    m = Moved(layer, dtype, last)
    dx, dw, _ = m.backward
    assert m.counts()[0] == (m.x + m.forward["blocks"] * (m.w + m.b), m.y)
    assert m.counts()[1] == (m.y + dx["blocks"] * m.w, m.x)
    stripes = dw["blocks"] // m.slices
    assert m.counts()[2] == (m.slices * m.x + m.y, stripes * m.sums)
    assert m.counts()[3] == (stripes * m.sums, m.w + m.b)
    assert all(launch["blocks"] <= 8 for launch in (m.forward, dx, dw))  # csrc/simt has 4 processors


@pytest.mark.parametrize("layer", [name for name in LAYERS if "first" in name])
def test_a_first_layer_without_dx_reads_all_its_images_and_gradients_once(layer):
    m = Moved(layer, torch.float32, False, want_dx=False)
    assert [launch["kernel"].split("<")[0] for launch in m.backward] == ["weight_gradient_kernel", "add_stripes_kernel"]
    assert m.backward[0]["read"] == m.x + m.y


@pytest.mark.parametrize("layer, most", [("LeNet's second", 1.17), ("CNN's second", 1.63)])
def test_both_gradients_read_dy_twice(layer, most):
    """Counting images and results only: the two launches share neither dy nor, where it is cut into slices, x."""
    m = Moved(layer, torch.float32, False)
    moved = m.backward[0]["read"] - m.backward[0]["blocks"] * m.w + m.backward[0]["written"] + m.backward[1]["read"]
    assert moved <= most * (m.y + 2 * m.x)


def test_the_map_before_pooling_is_never_in_memory():
    m = Moved("CNN's first", torch.float32, False)
    assert m.forward["written"] == m.results * 5 < m.results * 4 * 4
    assert all(launch["written"] < m.results * 4 * 4 for launch in m.backward)
