"""A layer of ours compares equal to torch's where a program asks for its exact type; a user's subclass does not."""

import abc
import copy
import pickle

import pytest
import torch
from torch import nn as stock

from torchext import nn
from torchext._counterpart import stock_of

PAIRS = [(getattr(nn, name), getattr(stock, name)) for name in nn.OURS if hasattr(stock, name)]
FUSED = [getattr(nn, name) for name in nn.OURS if not hasattr(stock, name)]


@pytest.mark.parametrize(("ours", "torchs"), PAIRS, ids=lambda cls: cls.__module__.partition(".")[0])
def test_a_class_of_ours_is_found_where_torchs_is_looked_up(ours, torchs):
    assert ours == torchs and torchs == ours and not ours != torchs  # noqa: SIM202 (both operators)
    assert hash(ours) == hash(torchs)
    assert {torchs: 1}[ours] == {ours: 1}[torchs] == 1
    assert ours in {torchs} and ours in [torchs] and (ours, 0) == (torchs, 0)
    assert ours != stock.Module and ours != ours.__name__ and ours not in {cls for _, cls in PAIRS if cls is not torchs}


@pytest.mark.parametrize(("ours", "torchs"), PAIRS)
def test_it_is_still_a_class_of_its_own(ours, torchs):
    assert ours is not torchs and issubclass(ours, torchs)
    assert issubclass(ours, ours) and not issubclass(torchs, ours)  # after the first check, whose result may be cached
    assert repr(ours) == f"<class '{ours.__module__}.{ours.__name__}'>" and ours.__module__.startswith("torchext.")
    assert pickle.loads(pickle.dumps(ours)) is ours and copy.deepcopy(ours) is ours


def test_instances_are_told_apart_by_isinstance():
    assert isinstance(nn.Linear(2, 2), nn.Linear) and isinstance(nn.Linear(2, 2), stock.Linear)
    assert not isinstance(stock.Linear(2, 2), nn.Linear)


@pytest.mark.parametrize("cls", FUSED)
def test_a_class_that_torch_lacks_equals_only_itself(cls):
    assert type(cls) is type and stock_of(cls) is None and all(cls != torchs for _, torchs in PAIRS)


class Mine(nn.Linear):
    pass


def test_a_users_subclass_equals_only_itself():
    assert Mine != nn.Linear and Mine != stock.Linear and stock.Linear != Mine and Mine not in {stock.Linear: 0}
    assert Mine == Mine and stock_of(Mine) is None and issubclass(Mine, nn.Linear) and issubclass(Mine, stock.Linear)
    assert Mine.__module__ == Mine(2, 2).__module__ == __name__
    assert type(pickle.loads(pickle.dumps(Mine(2, 2)))) is Mine

    class Linear(nn.Linear):
        """Of the same name."""

    assert Linear != nn.Linear and Linear != stock.Linear


def test_a_subclass_may_be_abstract():
    class Abstract(nn.Linear, abc.ABC):
        @abc.abstractmethod
        def head(self): ...

    class Whole(Abstract):
        def head(self): ...

    with pytest.raises(TypeError, match="abstract"):
        Abstract(2, 2)
    Abstract.register(stock.Bilinear)
    assert isinstance(Whole(2, 2), Abstract) and issubclass(stock.Bilinear, Abstract)
    assert not isinstance(nn.Linear(2, 2), Abstract)


def test_a_layer_is_saved_as_ours_and_names_torchs_module(tmp_path):
    layer = nn.Linear(3, 2)
    assert layer.__module__ == stock.Linear(3, 2).__module__
    torch.save(layer, tmp_path / "layer.pt")
    assert type(torch.load(tmp_path / "layer.pt", weights_only=False)) is nn.Linear
    with torch.serialization.safe_globals([nn.Linear, dict, set]):
        assert type(torch.load(tmp_path / "layer.pt", weights_only=True)) is nn.Linear
    assert type(copy.deepcopy(layer)) is nn.Linear


def test_an_initialiser_by_type():
    def initialise(layer):
        if type(layer) == stock.Linear:  # noqa: E721 (what the tutorials write)
            stock.init.zeros_(layer.weight)

    model = nn.Sequential(nn.Linear(3, 2), stock.ReLU(), Mine(2, 2)).apply(initialise)
    assert not model[0].weight.any() and model[2].weight.all()
