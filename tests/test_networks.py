"""Every network of the courses trains with our nn after changing only the import: the loss curve matches stock."""

import copy
import math

import pytest
import torch
import torch.nn.functional as stock_F
from networks import NETWORKS
from torch import nn as stock

import torchext
from torchext import nn
from torchext.nn import functional as F

STEPS = 8


def train(maker, nn, F):
    torch.manual_seed(0)
    model, loss, batch, optimizer = maker(nn, F)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses, model


@pytest.mark.parametrize("backend", ["native", "auto"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_curve_matches_stock(name, backend):
    want, twin = train(NETWORKS[name], stock, stock_F)
    with torchext.backend(backend):
        losses, model = train(NETWORKS[name], nn, F)
    assert all(math.isfinite(value) for value in want)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(want), rtol=1e-3, atol=1e-5)
    assert list(model.state_dict()) == list(twin.state_dict())
    twin.load_state_dict(model.state_dict(), strict=True)


@pytest.mark.parametrize("name", ["vgg", "residual_network"])
def test_the_loss_curve_matches_stock_in_channels_last(name):
    def channels_last(maker):
        def make(nn, F):
            model, loss, (x, t), optimizer = maker(nn, F)
            return (
                model.to(memory_format=torch.channels_last),
                loss,
                (x.contiguous(memory_format=torch.channels_last), t),
                optimizer,
            )

        return make

    maker = channels_last(NETWORKS[name])
    torch.testing.assert_close(
        *(torch.tensor(train(maker, *space)[0]) for space in ((nn, F), (stock, stock_F))), rtol=1e-3, atol=1e-5
    )


OPTIMIZERS = ("SGD", "RMSprop", "Adam", "Adadelta", "Adagrad", "Adamax", "LBFGS")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_works_with_a_closure(name):
    curves = []
    for space, functional in ((stock, stock_F), (nn, F)):
        torch.manual_seed(0)
        model, loss, batch, _ = NETWORKS["mlp"](space, functional)
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)

        def closure():
            optimizer.zero_grad()  # noqa: B023
            value = loss(model, batch)  # noqa: B023
            value.backward()
            return value

        curves.append(torch.stack([torch.as_tensor(optimizer.step(closure)).detach() for _ in range(3)]))
    torch.testing.assert_close(*curves, rtol=1e-3, atol=1e-5)


def test_what_users_do_around_a_model(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(676, 10), nn.Dropout(0.5)
    )
    x = torch.randn(5, 1, 28, 28)
    assert not torch.equal(model(x), model(x))
    model.eval()
    want = model(x)
    assert torch.equal(model(x), want)

    torch.save(model.state_dict(), tmp_path / "state.pt")
    twin = copy.deepcopy(model)
    nn.init.xavier_normal_(twin[0].weight)
    nn.init.kaiming_normal_(twin[4].weight)
    twin[4].bias.data.normal_()
    twin.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(twin(x), want)
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(x), want)

    for parameter in model[0].parameters():
        parameter.requires_grad = False
    y = model(x)
    y.backward(gradient=torch.ones_like(y), retain_graph=True)
    first = model[4].weight.grad.clone()
    y.backward(gradient=torch.ones_like(y))
    torch.testing.assert_close(model[4].weight.grad, 2 * first)
    assert model[0].weight.grad is None
    assert not model(x).detach().requires_grad


def test_the_namespaces_pass_everything_else_through():
    import torchext.nn.init as init
    from torchext.nn.utils.rnn import pad_sequence

    assert init.xavier_uniform_ is torch.nn.init.xavier_uniform_ and pad_sequence is torch.nn.utils.rnn.pad_sequence
    assert nn.BatchNorm2d is stock.BatchNorm2d and nn.Parameter is stock.Parameter and F.gelu is stock_F.gelu
    assert set(dir(stock)) <= set(dir(nn)) and set(dir(stock_F)) <= set(dir(F))
    for name in nn.OURS:
        assert getattr(nn, name).__module__.startswith("torchext")
        assert issubclass(getattr(nn, name), getattr(stock, name, stock.Module))
    for name in F.OURS:
        assert getattr(F, name).__module__.startswith("torchext")
    with pytest.raises(AttributeError):
        nn.NoSuchLayer  # noqa: B018


def worker_sum(batch):
    return batch[0].sum()


def test_a_data_loader_with_workers():
    data = torch.utils.data.TensorDataset(torch.randn(40, 8), torch.randint(2, (40,)))
    model, loss = nn.Linear(8, 2), nn.CrossEntropyLoss()
    seen = 0
    for x, t in torch.utils.data.DataLoader(data, batch_size=16, num_workers=2):
        loss(model(x), t).backward()
        seen += len(x)
    assert seen == 40
