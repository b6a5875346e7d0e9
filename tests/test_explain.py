"""explain() of users' models: whatever a forward pass makes, keeps or changes, the model is left as it was."""

import copy
import warnings

import pytest
import torch

import torchext
from torchext import nn
from torchext.nn import functional as F

SIDE = 30


class Model(torch.nn.Module):
    """A model whose forward is a given function."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def layers():
    return nn.Sequential(nn.Linear(SIDE, SIDE), nn.ReLU(), nn.Linear(SIDE, SIDE))


def explained(model, x=None):
    x = torch.randn(20, SIDE) if x is None else x
    with torchext.backend("native"):
        choices = torchext.explain(model, x).choices
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    return [(c.layer, c.op) for c in choices]


def test_layers_made_during_forward_are_listed_under_the_enclosing_module():
    made = Model(lambda self, x: layers()(x))
    assert explained(made) == [("", "linear_relu"), ("", "linear")]
    assert explained(nn.Sequential(made, nn.Linear(SIDE, 2))) == [
        ("0", "linear_relu"),
        ("0", "linear"),
        ("1", "linear"),
    ]


def test_layers_kept_in_a_list_are_listed_under_the_enclosing_module():
    model = Model(lambda self, x: self.last(self.kept[0](x)), kept=[nn.Linear(SIDE, SIDE)], last=nn.Linear(SIDE, 2))
    assert explained(model) == [("", "linear"), ("last", "linear")]


def test_layers_of_an_unregistered_sequential_keep_their_names():
    first, relu = nn.Linear(SIDE, SIDE), nn.ReLU()
    model = Model(lambda self, x: self.kept[0](x), kept=[nn.Sequential(first, relu)], first=first, relu=relu)
    assert explained(model) == [("first", "linear_relu")]


def test_a_layer_with_two_names_is_listed_under_the_first():
    layer = nn.Linear(SIDE, SIDE)
    assert explained(Model(lambda self, x: self.b(self.a(x)), a=layer, b=layer)) == [("a", "linear")] * 2


def test_lazy_layers_are_initialised_and_their_statistics_are_new():
    model = nn.Sequential(nn.LazyLinear(SIDE), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(SIDE, 2))
    assert explained(model) == [("3", "linear")]
    assert model[0].weight.shape == (SIDE, SIDE)
    fresh = torch.nn.BatchNorm1d(SIDE)
    assert all(torch.equal(a, b) for a, b in zip(model[1].buffers(), fresh.buffers(), strict=True))
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Conv2d(4, 2, 3))
    assert explained(model, torch.randn(16, 1, 9, 9)) == [("2", "conv2d")]
    assert model[1].num_batches_tracked == 0


def changes_its_buffers(self, x):
    self.late = None
    self.register_buffer("new", torch.ones(2))
    self.none = torch.ones(3)
    self.gone = None
    self.replaced = torch.ones(4)
    self.resized.resize_(5).fill_(1)
    self.elsewhere.data = torch.ones(7)
    self.retyped.data = torch.ones(2, dtype=torch.float64)
    self.shared.add_(1)
    self.strided.add_(1)
    return self.layer(x)


def test_buffers_are_restored_however_they_were_changed():
    model = Model(changes_its_buffers, layer=nn.Linear(SIDE, 2))
    for name in ("gone", "replaced", "resized", "elsewhere", "retyped", "shared"):
        model.register_buffer(name, torch.randn(2))
    model.register_buffer("none", None)
    model.register_buffer("again", model.shared)
    model.register_buffer("part", model.shared[1:])
    model.register_buffer("strided", torch.randn(6)[::2])
    before, twin = dict(model._buffers), copy.deepcopy(model)
    assert explained(model) == [("layer", "linear")]
    assert list(model._buffers) == list(before)
    for name, buffer in before.items():
        assert model._buffers[name] is buffer, name
        torch.testing.assert_close(buffer, twin._buffers[name], rtol=0, atol=0, check_stride=True)
    model.shared.zero_()
    assert model.part == 0 and model.again is model.shared


def test_a_failing_forward_leaves_neither_hooks_nor_changed_buffers():
    def fail(self, x):
        self.norm(x)
        raise KeyError("no")

    model = Model(fail, norm=nn.BatchNorm1d(SIDE))
    with pytest.raises(KeyError, match="no"):
        explained(model)
    assert not model.norm._forward_hooks and not model._forward_pre_hooks
    assert model.norm.num_batches_tracked == 0 and not model.norm.running_mean.any()
    assert explained(nn.Linear(SIDE, 2)) == [("", "linear")]


def test_backward_works_through_a_graph_made_before():
    """Batch norm saves its statistics for backward: rewriting them would count as a modification."""
    model = nn.Sequential(nn.Linear(SIDE, SIDE), nn.BatchNorm1d(SIDE)).eval()
    y = model(torch.randn(20, SIDE))
    explained(model)
    y.sum().backward()


def test_buffers_made_in_inference_mode():
    with torch.inference_mode():
        model = Model(lambda self, x: self.layer(x), layer=nn.Linear(SIDE, 2)).eval()
        model.register_buffer("seen", torch.ones(2))
    with torch.no_grad():
        assert explained(model) == [("layer", "linear")]


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("called", [True, False])
def test_a_compiled_model(called, fullgraph):
    torch._dynamo.reset()
    model = torch.compile(layers(), backend="torchext", fullgraph=fullgraph)
    x = torch.randn(20, SIDE)
    if called:
        model(x)
    assert explained(model, x) == [("", "linear_relu"), ("", "linear")]
    torch.testing.assert_close(model(x), model._orig_mod(x), rtol=1e-4, atol=1e-4)
    model = Model(lambda self, x: self.last(self.first(x)), first=layers(), last=nn.Linear(SIDE, 2))
    model.first.compile(backend="torchext", fullgraph=fullgraph)
    assert explained(model) == [("", "linear_relu"), ("", "linear"), ("last", "linear")]


def test_scripted_and_traced_models():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(SIDE, SIDE), torch.nn.BatchNorm1d(SIDE)))
        traced = torch.jit.trace(copy.deepcopy(scripted), torch.randn(20, SIDE))
    for part in (scripted, traced):
        before = [b.clone() for b in part.buffers()]
        assert explained(part) == []
        assert explained(nn.Sequential(part, nn.Linear(SIDE, 2))) == [("1", "linear")]
        assert all(torch.equal(a, b) for a, b in zip(before, part.buffers(), strict=True))


def test_a_model_that_explains_another():
    inner = nn.Linear(SIDE, SIDE)

    def forward(self, x):
        assert explained_inside(inner, x) == [("", "linear")]
        return self.last(F.linear(x, inner.weight))

    def explained_inside(model, x):
        return [(c.layer, c.op) for c in torchext.explain(model, x).choices]

    assert explained(Model(forward, last=nn.Linear(SIDE, 2))) == [("", "linear"), ("last", "linear")]


def test_an_argument_called_model():
    class Named(torch.nn.Module):
        def forward(self, model):
            return F.linear(model, torch.ones(2, SIDE))

    assert torchext.explain(Named(), model=torch.ones(20, SIDE)).choices[0].op == "linear"
