"""torch.compile(backend="torchext") after a bare `import torchext`, however the package came to be on the path."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchext import _unpacked

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "torchext"

# The metadata of other installations of this package is hidden: these runs see only the path they are given.
HIDDEN = """
import sys
from importlib import metadata
found = metadata.MetadataPathFinder.find_distributions
def find(*context):
    return (d for d in found(*context) if d.metadata["Name"] != "torchext" or str(d._path).startswith(sys.argv[1]))
metadata.MetadataPathFinder.find_distributions = find
import torch
"""
IMPORT = """
import torchext
assert torchext.__file__.startswith(sys.argv[1]), torchext.__file__
assert metadata.version("torchext") == torchext.__version__
"""
COMPILE = """
y = torch.compile(torch.nn.Linear(30, 40), backend="torchext")(torch.ones(20, 30))
import torchext
with torchext.backend("native"), torchext.record_routes() as routes:
    torch.compile(torch.nn.Linear(30, 40), backend="torchext")(torch.ones(20, 30))
assert "torchext" in torch._dynamo.list_backends()
print(routes[0].op, routes[0].backend)
"""
NO_DYNAMO = """
assert "torch._dynamo" not in sys.modules, "importing torchext imports Dynamo"
"""
LISTED = "torch._dynamo.list_backends()\n"


def copied(folder):
    """The package, by links: the extension is large."""
    skipped = shutil.ignore_patterns("__pycache__", "_simt*")
    shutil.copytree(PACKAGE, folder / "torchext", ignore=skipped, copy_function=os.symlink)
    return folder


def described(folder):
    """The metadata pip writes beside an installed package, editable or not."""
    information = folder / f"torchext-{_unpacked.VERSION}.dist-info"
    information.mkdir(parents=True)
    for name, text in _unpacked._FILES.items():
        (information / name).write_text(text)
    return folder


def edited(folder):
    """An editable install's .pth file adds its path to sys.path, so here the path is added directly."""
    return described(folder / "site"), copied(folder / "project")


PLACES = {
    "a source tree": lambda folder: (ROOT,),
    "a copy of the package": lambda folder: (copied(folder),),
    "installed": lambda folder: (described(copied(folder)),),
    "an editable install": edited,
}
RUNS = {
    "a source tree": {"first": IMPORT + NO_DYNAMO + COMPILE, "after Dynamo looked": LISTED + IMPORT + COMPILE},
    "a copy of the package": {"first": IMPORT + NO_DYNAMO + COMPILE},
    "installed": {"not imported": COMPILE, "after Dynamo looked": LISTED + IMPORT + COMPILE},
    "an editable install": {"not imported": COMPILE},
}


@pytest.mark.parametrize("place, when", [(place, when) for place, runs in RUNS.items() for when in runs])
def test_the_backend_has_its_name_wherever_the_package_lies(place, when, tmp_path):
    paths = [str(path) for path in PLACES[place](tmp_path)]
    base = str(ROOT if place == "a source tree" else tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", HIDDEN + RUNS[place][when], base]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert run.stdout == "linear native\n", run.stderr


def test_an_unpacked_tree_has_the_metadata_of_an_installation():
    project = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', project, re.M)[1], *re.findall(r'^torchext = "(.+)"$', project, re.M)
    assert found == (_unpacked.VERSION, _unpacked._FILES["entry_points.txt"].split(" = ")[1].strip())
