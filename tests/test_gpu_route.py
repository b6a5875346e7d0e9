"""What "auto" takes on a GPU, tested without one: CPU tensors that claim to be on a GPU."""

import subprocess
import sys

import pytest
import torch
from gpu_cases import route

import torchext
from torchext import _gpu, _op, _table_in_force
from torchext._table import ANY, FAMILIES
from torchext.nn import functional as F

LAST = torch.channels_last
STEMS = ("cross_entropy", "max_pool2d", "dropout", "conv2d_relu_max_pool2d")


def image(*shape, layout=torch.contiguous_format):
    return torch.randn(shape).contiguous(memory_format=layout).requires_grad_()


def loss(rows, classes, *positions):
    x, target = torch.randn(rows, classes, *positions, requires_grad=True), torch.randint(classes, (rows, *positions))
    return lambda: F.cross_entropy(x, target)


def pool(*args, layout=torch.contiguous_format, **options):
    x = image(2, 4, 8, 8, layout=layout)
    return lambda: F.max_pool2d(x, *args, **options)


def pooled_convolution(channels, side):
    x, w = image(2, channels, 8, 8), torch.randn(4, channels, side, side, requires_grad=True)
    return lambda: F.conv2d_relu_max_pool2d(x, w, pool_kernel_size=2)


def linear():
    x, w = torch.randn(8, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    return x, w, torch.randint(8, (8,))


# Of each kind of call in the table: its classes, one, and its size there.
_POOL = {"layout": "contiguous", "windows": "apart"}
MEASURED = {
    "cross_entropy to 32 classes": ({"kind": "to 32 classes"}, loss(16, 32), 512),
    "cross_entropy to 512 classes": ({"kind": "to 512 classes"}, loss(16, 33), 528),
    "cross_entropy": ({"kind": "more classes"}, loss(2, 513), 1026),
    "cross_entropy of planes": ({"kind": "planes"}, loss(2, 3, 4, 5), 120),
    "max_pool2d apart": (_POOL, pool(2), 512),
    "max_pool2d apart, channels_last": (_POOL | {"layout": "channels_last"}, pool(2, layout=LAST), 512),
    "max_pool2d overlapping": (_POOL | {"windows": "overlapping"}, pool(3, 2, 1), 512),
    "max_pool2d overlapping, channels_last": (
        {"layout": "channels_last", "windows": "overlapping"}, pool(3, 2, 1, layout=LAST), 512,
    ),
    "dropout": ({"of": "elements"}, lambda: F.dropout(torch.ones(512, requires_grad=True)), 512),
    "conv2d_relu_max_pool2d to 32 taps": ({"taps": "to 32"}, pooled_convolution(3, 3), 2 * 4 * 6 * 6),
    "conv2d_relu_max_pool2d to 160 taps": ({"taps": "to 160"}, pooled_convolution(4, 3), 2 * 4 * 6 * 6),
}  # fmt: skip
OPS = {kind: kind.split()[0] for kind in MEASURED}
SHIPPED = _table_in_force.shipped("cuda", "sm_90-nvidia-h100-80gb-hbm3")


UNMEASURED = {
    "linear": lambda: F.linear(*linear()[:2]),
    "linear_relu": lambda: F.linear_relu(*linear()[:2]),
    "conv2d": lambda: F.conv2d(image(2, 3, 8, 8), image(4, 3, 3, 3)),
    "conv2d_relu": lambda: F.conv2d_relu(image(2, 3, 8, 8), image(4, 3, 3, 3)),
    "linear_cross_entropy": lambda: F.linear_cross_entropy(*linear()),
    "dropout2d": lambda: F.dropout2d(image(2, 4, 8, 8)),
    "max_pool2d with indices": pool(2, return_indices=True),
    "max_pool2d of a large window": pool(4),
    "max_pool2d dilated": pool(2, dilation=2),
    "a deep pooled convolution": pooled_convolution(18, 3),
    "cross_entropy of probabilities": lambda: F.cross_entropy(linear()[0], torch.rand(8, 8).softmax(1)),
}


def all_ours(monkeypatch):
    """Every kind that was measured is ours at every size."""
    for op in STEMS:
        rows = [when for kind, (when, _, _) in MEASURED.items() if OPS[kind] == op]
        route(monkeypatch, op, *((when, 0, "native") for when in rows))


def set_row(monkeypatch, kind, eager, captured):
    """The table with one row alone, and the one of it under capture."""
    when = MEASURED[kind][0] | {"bytes": "4 or 8"}
    for op in STEMS:
        route(monkeypatch, op)
    rows = ((when | {"captured": "no"}, eager, "native"), (when | {"captured": "yes"}, captured, "native"))
    route(monkeypatch, OPS[kind], *rows)


def routes(call):
    with torchext.record_routes() as found:
        call()
    return {choice.backend for choice in found}


@pytest.mark.parametrize("kind", MEASURED)
def test_each_kind_of_call_is_ours_from_its_smallest_size_on(gpu, kind):
    _, call, size = MEASURED[kind]
    set_row(gpu, kind, size, size)
    assert routes(call) == {"native"}
    set_row(gpu, kind, size + 1, size + 1)
    assert routes(call) == {"stock"}


@pytest.mark.parametrize("kind", MEASURED)
def test_under_capture_the_devices_time_alone_decides(gpu, kind):
    _, call, size = MEASURED[kind]
    set_row(gpu, kind, ANY, size)
    assert routes(call) == {"stock"}
    gpu.setattr(_gpu, "_is_capturing", lambda: True)
    assert routes(call) == {"native"}
    set_row(gpu, kind, ANY, size + 1)
    assert routes(call) == {"stock"}


def convolution():
    x, w = image(2, 3, 8, 8), image(4, 3, 3, 3)
    return lambda: F.conv2d_relu(x, w)


@pytest.mark.parametrize(
    "op, call, eager, captured, searching",
    [
        ("conv2d_relu", convolution(), "native", "stock", "native"),
        ("conv2d_relu", convolution(), "stock", "native", "native"),
        ("conv2d_relu_max_pool2d", pooled_convolution(3, 3), "native", "apart", "native"),
    ],
)
def test_a_capture_has_no_convolution_of_cudnns_that_its_search_has_not_met(
    gpu, cudnn, op, call, eager, captured, searching
):
    """With cudnn.benchmark the algorithm is searched for by the calls before, which go by the eager row."""
    route(gpu, "conv2d_relu")
    route(gpu, op, ({"captured": "no"}, 0, eager), ({"captured": "yes"}, 0, captured))
    backend = lambda name: {"stock"} if name == "apart" else {name}
    assert routes(call) == backend(eager)
    gpu.setattr(_gpu, "_is_capturing", lambda: True)
    for benchmark, expected in ((False, captured), (True, searching)):
        cudnn(benchmark=benchmark)
        assert routes(call) == backend(expected)


@pytest.mark.parametrize("name", UNMEASURED)
def test_calls_the_table_does_not_name_go_to_stock(gpu, name):
    all_ours(gpu)
    route(gpu, "linear_relu")
    route(gpu, "conv2d_relu")
    with torchext.record_routes() as found:
        UNMEASURED[name]()
    chosen = {(choice.op, choice.backend) for choice in found if choice.op != "max_pool2d" or "max_pool2d" in name}
    assert {backend for _, backend in chosen} == {"stock"}, chosen


@pytest.mark.parametrize("missing", STEMS)
def test_an_op_without_kernels_sends_only_itself_to_stock(gpu, missing):
    gpu.delitem(_op.GPU, missing)
    all_ours(gpu)
    for kind, (_, call, _) in MEASURED.items():
        if OPS[kind] == missing:
            assert "native" not in routes(call) or missing == "conv2d_relu_max_pool2d"
        elif missing not in kind:
            assert routes(call) == {"native"}, kind


@pytest.mark.parametrize("serving, backend", [("native", "native"), ("triton", "stock"), (None, "stock")])
def test_native_means_cuda_kernels_and_nothing_in_their_place(gpu, serving, backend):
    for stem in STEMS:
        if serving is None:
            gpu.delitem(_op.GPU, stem)
        else:
            gpu.setitem(_op.GPU, stem, serving)
    with torchext.backend("native"):
        for kind, (_, call, _) in MEASURED.items():
            if "conv2d" not in kind:
                assert routes(call) == {backend}, kind


def test_every_row_of_the_table_is_tried_here():
    tried = {(OPS[kind], *when.values()) for kind, (when, _, _) in MEASURED.items()}
    for row in SHIPPED.rows:
        family = FAMILIES[row.op, "cuda"]
        if row.op in STEMS:
            for when in map(family.when, family.numbers(row)):
                kind = row.op, *(value for name, value in when.items() if name not in ("serving", "bytes", "captured"))
                assert kind in tried or {route for _, route in row.steps} <= {"stock", "apart"}


def test_under_capture_ours_begins_no_later():
    for op in STEMS:
        family = FAMILIES[op, "cuda"]
        for number in range(0, family.count, 2):
            eager, captured = (steps[0][0] if len(steps) > 1 else ANY for steps in family.steps[number : number + 2])
            assert captured <= eager or family.steps[number] == ((ANY, family.otherwise),)


def test_linear_cross_entropy_is_ours_where_stocks_logits_do_not_fit(gpu):
    gpu.setattr(_gpu, "_SPARE", 0)
    gpu.setattr(torch.cuda, "memory_reserved", lambda device: 100)
    gpu.setattr(torch.cuda, "memory_allocated", lambda device: 60)
    needed = 3 * 8 * 8 * 4
    for free, backend in ((needed - 40, "stock"), (needed - 41, "native")):
        gpu.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1 << 40))
        assert routes(lambda: F.linear_cross_entropy(*linear())) == {backend}


def test_where_no_cuda_was_built_triton_serves():
    """In an interpreter whose torch claims CUDA: each op gets its own launcher as the CUDA kernel."""
    script = """
import torch
torch.version.cuda = "13.0"
import torchext
from torchext import _op
ours = {stem for stem in _op.OPS if stem not in _op.CPU_ONLY}
native = {stem for stem in ours if _op.GPU[stem] == "native"}
assert set(_op.GPU) == ours, _op.GPU
for stem in ours - native:
    assert _op.GPU[stem] == "triton"
    for name in _op.OPS[stem]:
        assert _op._has_kernel(name, "default", "CUDA"), name
import torchext.kernels
for stem in ours:
    for name in _op.OPS[stem]:
        assert _op._has_kernel(name, "triton", "CPU"), name
x = torch.randn(4, 8)
got = _op._by_triton("linear_relu")(x, torch.eye(8), None, 1)
assert torch.equal(got, x.relu())
"""
    environment = {"TRITON_INTERPRET": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
