"""What the tests of tuning share: a clock by which routes take what they are told, and tables of their own."""

from typing import ClassVar

import pytest

from torchext._table import APART, DIRECT, FAMILIES, NATIVE, STOCK, WINOGRAD
from torchext.tuning import clock, machine, model


class Timetable(clock.Clock):
    """A clock by which a route takes what it is told."""

    taken: ClassVar[dict[int, float]] = {}

    def seconds(self, run, repeats):
        run()
        families = [family for family in FAMILIES.values() if not isinstance(family.steps, list)]
        (route,) = {family.steps[0][0][1] for family in families}
        return self.taken[route]


@pytest.fixture
def timetable(monkeypatch, tmp_path):
    """Sets what routes take, with tables of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHEXT_TABLE", raising=False)
    before = {key: family.steps for key, family in FAMILIES.items()}
    for family in FAMILIES.values():
        family.steps = list(family.steps)
    monkeypatch.setattr(model, "Clock", Timetable)
    monkeypatch.setattr(machine, "Clock", Timetable)
    monkeypatch.setattr(Timetable, "taken", {STOCK: 1.0, APART: 1.0, NATIVE: 0.5, DIRECT: 0.5, WINOGRAD: 0.5, 1: 0.7})
    yield Timetable
    for key, family in FAMILIES.items():
        family.steps = before[key]
        family.settle()
