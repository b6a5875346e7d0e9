"""Bad arguments raise the exception that stock raises, whichever backend serves the call."""

import numpy as np
import pytest
import torch
from torch.nn import functional as stock_F

import torchext
from torchext.nn import functional as F

X, W, B = torch.randn(4, 6), torch.randn(5, 6), torch.randn(5)
MAPS, FILTERS, BIAS = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
LOGITS, TARGET = torch.randn(300, 50), torch.zeros(300, dtype=torch.long)
GOOD = {  # arguments that both take
    "linear": {"input": X, "weight": W, "bias": B},
    "conv2d": {
        "input": MAPS, "weight": FILTERS, "bias": BIAS, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
    },
    "max_pool2d": {
        "input": MAPS, "kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False,
        "return_indices": False,
    },
    "cross_entropy": {
        "input": LOGITS, "target": TARGET, "weight": torch.ones(50), "ignore_index": -100, "reduction": "mean",
        "label_smoothing": 0.0,
    },
    "linear_cross_entropy": {
        "input": torch.randn(20, 8), "linear_weight": torch.randn(50, 8), "target": TARGET[:20],
        "linear_bias": torch.randn(50), "weight": torch.ones(50), "ignore_index": -100, "reduction": "mean",
        "label_smoothing": 0.0,
    },
    **{
        name: {"input": torch.randn(64, 64, 2, 2), "p": 0.5, "training": True, "inplace": False}
        for name in ("dropout", "alpha_dropout", "dropout2d", "feature_alpha_dropout")
    },
    "dropout1d": {"input": torch.randn(64, 64, 4), "p": 0.5, "training": True, "inplace": False},
    "dropout3d": {"input": torch.randn(64, 64, 2, 2, 2), "p": 0.5, "training": True, "inplace": False},
}  # fmt: skip
BAD = {
    "None": None,
    "a list": [1.0, 2.0],
    "a list of one": ["mean"],
    "an empty list": [],
    "an array": np.ones((2, 3), "float32"),
    "a number": 3,
    "a negative number": -1,
    "a fraction": 0.5,
    "a number above 1": 1.5,
    "NaN": float("nan"),
    "text": "text",
    "a tuple of three": (1, 1, 1),
    "a tuple of text": ("a", "b"),
    "an integer tensor": torch.ones(4, 6, dtype=torch.int64),
    "a complex tensor": torch.ones(4, 6, dtype=torch.complex64),
    "a scalar tensor": torch.tensor(1.0),
    "no elements": torch.ones(0, 3),
    "a float8 tensor": torch.ones(4, 6).to(torch.float8_e4m3fn),
    "a sparse tensor": torch.eye(6).to_sparse(),
    "a quantized tensor": torch.quantize_per_tensor(torch.ones(4, 6), 0.1, 0, torch.qint8),
    "a meta tensor": torch.ones(4, 6, device="meta"),
    "a nested tensor": torch.nested.nested_tensor([torch.ones(2, 6), torch.ones(3, 6)]),
    "nested images": torch.nested.nested_tensor([torch.ones(3, 8, 8), torch.ones(3, 9, 8)]),
    "another dtype": torch.ones(4, 6, dtype=torch.float64),
    "True": True,
}


def outcome(function, arguments):
    torch.manual_seed(0)
    try:
        y = function(**arguments)
    except Exception as error:
        return type(error)
    return [(t.shape if not t.is_nested else "nested", t.dtype) for t in (y if isinstance(y, tuple) else (y,))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["native", "auto"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name, argument", [(name, argument) for name in GOOD for argument in GOOD[name]])
def test_the_exception_matches_stock(name, argument, bad, backend):
    if not hasattr(stock_F, name):
        pytest.skip(f"this torch has no {name}")
    arguments = GOOD[name] | {argument: BAD[bad]}
    with torchext.backend(backend):
        got = outcome(getattr(F, name), arguments)
    assert got == outcome(getattr(stock_F, name), arguments)


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_or_unknown_argument_is_a_type_error(name):
    with pytest.raises(TypeError):
        getattr(F, name)()
    with pytest.raises(TypeError, match="unknown"):
        getattr(F, name)(**GOOD[name], unknown=1)


@pytest.mark.parametrize("name", [name for name in GOOD if "dropout" in name])
def test_in_place_dropout_of_an_inference_tensor_raises_as_in_stock(name):
    with torch.inference_mode():
        x = GOOD[name]["input"].clone()
    arguments = {"input": x, "p": 0.5, "training": True, "inplace": True}
    assert outcome(getattr(F, name), arguments) == outcome(getattr(stock_F, name), arguments)
