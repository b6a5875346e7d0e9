"""Both of torch's ONNX exporters export a model of our layers to the same graph as one of torch's."""

import pytest
import torch
from torch import nn as stock

import torchext
from torchext import nn

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
pytest.importorskip("onnxscript")


class Net(stock.Module):
    def __init__(self, nn):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.conv, self.pool = nn.Conv2d(4, 4, (3, 2), groups=2, bias=False), nn.MaxPool2d(3, 2, padding=1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x):
        return self.head(self.pool(self.conv(self.features(x))))


def exported(model, path, dynamo):
    x = torch.randn(2, 3, 12, 12)
    batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(model, (x,), path, input_names=["x"], output_names=["y"], dynamo=dynamo, verbose=False, **batch)
    return onnx.load(path)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
def test_exported_as_torchs(dynamo, accelerated, tmp_path):
    theirs = Net(stock).eval()
    ours = torchext.accelerate(Net(stock)) if accelerated else Net(nn)
    ours.eval().load_state_dict(theirs.state_dict())
    graph, want = (exported(m, tmp_path / f"{i}.onnx", dynamo) for i, m in enumerate((ours, theirs)))
    assert [node.op_type for node in graph.graph.node] == [node.op_type for node in want.graph.node]
    x = torch.randn(5, 3, 12, 12)  # another batch than it was exported with
    (y,) = reference.ReferenceEvaluator(graph).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dynamo", [False, True])
def test_fused_layers_are_exported_as_the_chain_they_stand_for(dynamo, tmp_path):
    model = stock.Sequential(
        nn.ConvReLUMaxPool2d(3, 4, 3, pool_kernel_size=2), nn.ConvReLU2d(4, 4, 2), stock.Flatten(), nn.LinearReLU(64, 3)
    ).eval()
    graph = exported(model, tmp_path / "fused.onnx", dynamo)
    kinds = [node.op_type for node in graph.graph.node if node.op_type in ("Conv", "Relu", "MaxPool", "Gemm")]
    assert kinds == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "Gemm", "Relu"]
    x = torch.randn(5, 3, 12, 12)
    (y,) = reference.ReferenceEvaluator(graph).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x), atol=1e-5, rtol=1e-5)
