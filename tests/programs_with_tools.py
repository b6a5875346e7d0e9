"""Small user programs that pass layers to torch's tools: tracing, export, scripting, quantisation, compilation."""

import copy
import functools
import pickle

import torch
from programs import X
from torch import fx


def traced_at_another_size(nn, F):
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).eval()
    with torch.no_grad():
        return torch.jit.trace(model, X)(torch.randn(4, 1, 40, 36)).shape


def exported(nn, F):
    model = nn.Sequential(nn.Conv2d(1, 6, 5))
    graph = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim("B")},))
    return graph.module()(X[:4]).shape


def quantized(nn, F):
    from torch.ao.quantization import quantize_dynamic

    model = quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
    return [type(layer).__module__.split(".")[:4] for layer in model]


def init_by_type(nn, F):
    def zero(layer):
        if type(layer) == nn.Linear:  # noqa: E721
            torch.nn.init.zeros_(layer.weight)

    return nn.Sequential(nn.Linear(4, 4), nn.ReLU()).apply(zero)[0].weight


def jacobian(nn, F):
    x, target = torch.randn(64, 32), torch.arange(64) % 50
    loss = functools.partial(F.linear_cross_entropy, linear_weight=torch.ones(50, 32), target=target)
    return torch.autograd.functional.jacobian(loss, x, vectorize=True)


def nested(nn, F):
    rows = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)])
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU())(rows).is_nested


def sliced_while_compiled(nn, F):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    return torch.compile(lambda x: model[:2](x), backend="eager")(torch.ones(2, 4)).shape


def made_while_compiled(nn, F):
    def loss(x, target):
        return nn.CrossEntropyLoss()(nn.Sequential(nn.ReLU())(x), target)

    return torch.compile(loss, backend="eager")(torch.ones(2, 4), torch.zeros(2, dtype=torch.long))


def stored_graph(nn, F):
    graph = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    torch.jit.script(graph)
    return pickle.loads(pickle.dumps(graph))(torch.ones(2, 4)).shape, graph.code


def one_image(nn, F):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).to(memory_format=torch.channels_last)
    return model(torch.randn(3, 16, 16)).stride()


TOOLS = {
    "a slice in a compiled function": sliced_while_compiled,
    "layers made in a compiled function": made_while_compiled,
    "a graph that is stored": stored_graph,
    "one image in channels_last": one_image,
    "a sparse target": lambda nn, F: F.cross_entropy(torch.ones(3, 4), torch.eye(3, 4).to_sparse()),
    "fx.symbolic_trace": lambda nn, F: fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 2, 3)))(X).shape,
    "torch.export, any batch": exported,
    "jit.trace, another size": traced_at_another_size,
    "jit.trace with grad": lambda nn, F: (
        torch.jit.trace(nn.Sequential(nn.Linear(256, 120), nn.ReLU()), torch.ones(64, 256))(torch.ones(8, 256)).shape
    ),
    "jit.script": lambda nn, F: type(torch.jit.script(nn.Linear(4, 4))).__name__,
    "quantize_dynamic": quantized,
    "init by exact type": init_by_type,
    "a nested tensor": nested,
    "deepcopy": lambda nn, F: copy.deepcopy(nn.Sequential(nn.Linear(4, 8), nn.ReLU()))(torch.ones(2, 4)).shape,
}
if hasattr(torch.nn.functional, "linear_cross_entropy"):
    TOOLS["jacobian, vectorized"] = jacobian
