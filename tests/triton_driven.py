"""Run by test_triton_driver.py in a process of its own, without the interpreter: every Triton kernel on a fake driver.

`python tests/triton_driven.py FOLDER [--dtype float32 ...] [--all]` prints, as JSON, the launches that failed, what
the others' kernels use, and which kernels there are and were launched. Triton's cache is kept in FOLDER.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import fake_driver  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
from torch import Tensor  # noqa: E402

DTYPES = ("float64", "float32", "bfloat16", "float16")


def moved(x: Tensor) -> Tensor:
    """A leaf of x's shape and strides whose memory starts one element after a multiple of 16 bytes."""
    there = x.new_empty(x.numel() + 1)[1:].as_strided(x.shape, x.stride(), 1)
    return there.requires_grad_(x.requires_grad)


def extra_steps(dtype: torch.dtype) -> Iterator:
    """What bench/gpu_steps.py omits: options that choose other kernels, or other arguments of them."""
    from bench.gpu_steps import Step
    from torchext.nn import functional as F

    def leaf(*shape):
        return torch.randn(shape).to(dtype).requires_grad_()

    x, image = leaf(67, 96), leaf(3, 8, 13, 11)
    yield Step("linear", F.linear, (x, leaf(40, 96)))
    yield Step("linear wide", F.linear, (leaf(300, 2048), leaf(130, 2048), leaf(130)))
    target = torch.randint(50, (67,))
    for bias in ((), (leaf(50),)):
        function = lambda x, w, *b: F.linear_cross_entropy(x, w, target, linear_bias=b[0] if b else None)
        yield Step("linear_cross_entropy", function, (x, leaf(50, 96), *bias))
    for classes, reduction in ((10, "none"), (1000, "sum"), (40000, "mean")):
        weight, probable = torch.rand(classes).to(dtype), torch.rand(9, classes).to(dtype)
        function = partial(F.cross_entropy, target=probable, weight=weight, label_smoothing=0.1, reduction=reduction)
        yield Step(f"cross_entropy probabilities {classes}", function, (leaf(9, classes),))
        index = torch.randint(classes, (9,))
        function = partial(F.cross_entropy, target=index, weight=weight, reduction=reduction)
        yield Step(f"cross_entropy weight {classes}", function, (leaf(9, classes),))
    for name in ("alpha_dropout", "dropout1d", "dropout2d", "feature_alpha_dropout"):
        yield Step(name, partial(getattr(F, name), p=0.3, training=True), (leaf(3, 8, 13) if "1d" in name else image,))
    yield Step("dropout inplace", lambda x: F.dropout(x * 1, 0.3, inplace=True), (x,))
    for last in (False, True):
        x = image.detach().contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        pooled = partial(F.max_pool2d, kernel_size=3, stride=1, dilation=2, return_indices=True)
        yield Step("max_pool2d indices", lambda x, f=pooled: f(x)[0], (x.requires_grad_(),))
        yield Step("max_pool2d 7x7", partial(F.max_pool2d, kernel_size=7, stride=1, padding=3), (x,))
        yield Step("conv2d groups", partial(F.conv2d, groups=4, dilation=2), (x, leaf(16, 2, 3, 3), leaf(16)))
        yield Step("conv2d 1x1", F.conv2d, (x, leaf(40, 8, 1, 1)))
        pool = partial(F.conv2d_relu_max_pool2d, pool_kernel_size=3, pool_stride=2, pool_padding=1, padding=1)
        yield Step("conv2d_relu_max_pool2d 3x3/2", pool, (x, leaf(16, 8, 3, 3), leaf(16)))


def run(step) -> None:
    """Forward, then backward of a dense gradient."""
    y = step.function(*step.leaves)
    torch.autograd.grad(y, step.leaves, torch.empty_like(y))


def work(dtype: str, everything: bool) -> Iterator[tuple[str, Callable]]:
    """Programs on small tensors; then those of the static tables, at tuned sizes, on tensors without memory."""
    from bench import gpu_steps, static_triton_cases

    kind = getattr(torch, dtype)
    steps = [*gpu_steps.steps(kind, "cpu"), *extra_steps(kind)]
    for step in steps:
        yield f"{step.name} {dtype}", step.run
    if everything:
        for step in steps:
            yield f"{step.name} {dtype} dense dy", partial(run, step)
            elsewhere = step._replace(leaves=tuple(map(moved, step.leaves)))
            yield f"{step.name} {dtype} unaligned", partial(run, elsewhere)
    static_triton_cases.HALF = static_triton_cases.SINGLE = static_triton_cases.DOUBLE = kind
    for op, cases in static_triton_cases.CASES.items():
        for number, case in enumerate(cases()):
            yield f"at size {number}: {op} {dtype}", case


def too_few(launch):
    """A launcher passes one argument too few."""
    return lambda kernel, grid, *args, **meta: launch(kernel, grid, *args[:-1], **meta)


def too_large(launch):
    """A tile that needs more shared memory than a multiprocessor has: 20 stages of 128 x 64 operands of 2 bytes."""
    return lambda *args, **meta: launch(*args, **meta | {"num_stages": 20})


def too_large_candidate(launch):
    """The same in a configuration that only the autotuner tries: 8 stages of 384 x 64."""

    def tuned(kernel, *args, **meta):
        before, worse = kernel.configs, triton.Config({"BM": 128, "BN": 256}, num_warps=8, num_stages=8)
        kernel.configs = [before[0], worse]
        launch(kernel, *args, **meta)
        kernel.configs = before

    return tuned


def too_many(launch):
    """A grid has more than 65535 blocks in its second dimension."""
    return lambda kernel, grid, *args, **meta: launch(kernel, (1, 1 << 16), *args, **meta)


def on_the_host(launch):
    """A launcher made a tensor without saying where."""
    seed = torch.zeros(1 << 20, dtype=torch.int64)[0]  # mapped: without PIE Python's heap lies at low addresses
    return lambda kernel, grid, x, y, _, *args, **meta: launch(kernel, grid, x, y, seed, *args, **meta)


FAULTS = {  # each with the module whose launcher has the fault, and the program that triggers it
    too_few: ("dropout", "dropout bfloat16"),
    too_large: ("linear_relu", "linear bfloat16"),
    too_large_candidate: ("linear_relu", "at size 0: linear_relu bfloat16"),
    too_many: ("dropout", "dropout bfloat16"),
    on_the_host: ("dropout", "at size 0: dropout bfloat16"),
}


def faulty(kernels) -> Iterator[tuple[str, Callable]]:
    """Programs with a fault planted, named after it."""
    programs = dict(work("bfloat16", False))
    for fault, (name, program) in FAULTS.items():
        module = getattr(kernels, name)
        before, module.launch = module.launch, fault(module.launch)
        yield f"{fault.__name__}: {program}", programs[program]
        module.launch = before


def row(launch: fake_driver.Launch, at: str) -> dict:
    """A launch as it is printed."""
    tensors = [a for a in launch.args if isinstance(a, torch.Tensor)]
    dtypes = list(dict.fromkeys(str(t.dtype).removeprefix("torch.") for t in tensors))
    meta = {k: str(v) for k, v in launch.options.items() if k not in ("grid", "warmup", "enable_fp_fusion")}
    told = {"at": at, "kernel": launch.kernel, "config": launch.config, "default": launch.default}
    return told | {"dtypes": dtypes, "options": meta, "error": said(launch.error)} | (launch.used or {})


def said(error: Exception | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"[-2000:]


def kernels_of(package) -> dict[str, str]:
    """The module of each kernel that a launcher may name; helpers that kernels call are named differently."""
    modules = [m for m in vars(package).values() if hasattr(m, "__file__")]
    found = [k for m in modules for k in vars(m).values() if hasattr(k, "fn") and hasattr(k, "run")]
    found = [getattr(k.fn, "fn", k.fn) for k in found]
    return {f.__name__: f.__module__.rsplit(".", 1)[1] for f in found if f.__name__.endswith("_kernel")}


def forget(package) -> None:
    """Forgets what the autotuner chose, but not what it has on disk."""
    for module in vars(package).values():
        for kernel in vars(module).values() if hasattr(module, "__file__") else ():
            if hasattr(kernel, "configs"):
                kernel.cache.clear()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", nargs="*", default=DTYPES[1:2], choices=DTYPES)
    parser.add_argument("--all", action="store_true", help="unaligned tensors and dense gradients as well")
    parser.add_argument("--only", nargs="*", default=[""], help="programs whose names start so")
    parser.add_argument("--again", action="store_true", help="then once more, the choices of the autotuner forgotten")
    parser.add_argument("--faults", action="store_true", help="nothing but programs with a fault planted")
    options = parser.parse_args()
    cuda = fake_driver.install(options.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchext

        kernels = importlib.import_module("torchext.kernels")
    failed, loaded, timed, launched = [], [], [], set()

    def report(launch):
        launched.add(launch.kernel)
        if launch.error is not None:
            failed.append(row(launch, name))
        elif launch.used is not None:
            loaded.append(row(launch, name))

    def programs():
        if options.faults:
            yield from faulty(kernels)
        for dtype in [] if options.faults else options.dtype:
            yield from ((n, p) for n, p in work(dtype, options.all) if n.startswith(tuple(options.only)))

    with fake_driver.watched(report), torchext.backend("triton"), torchext.record_routes() as routes:
        for _ in range(2 if options.again else 1):
            forget(kernels)
            for name, program in programs():
                cuda.fake_host("at size" in name)  # where the device's tensors have no memory
                try:
                    program()
                except Exception as error:
                    failed.append({"at": name, "error": said(error)})
                print(f"{sum(os.times()[:4]):6.1f} s {name}", file=sys.stderr, flush=True)
            timed.append(fake_driver.timed)
    stock = sorted({f"{r.op}: {r.why}" for r in routes if r.backend == "stock"})
    print(json.dumps({"failed": failed, "loaded": loaded, "stock": stock, "launches": cuda.fake_launches(),
                      "timed": timed, "kernels": kernels_of(kernels), "launched": sorted(launched)}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
