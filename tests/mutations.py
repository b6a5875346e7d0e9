"""The GPU kernels with a line taken out, built with a driver of tests/csrc on csrc/simt."""

import re
import shutil
import subprocess
from dataclasses import dataclass

from simt_kernels import COMPILE, ROOT

KERNELS = ROOT / "csrc/cuda"
NEEDED = re.compile(r"(__syncthreads\w*|__syncwarp|copy_async_wait<[^>]*>|copy_async_commit)\([^()]*\);")


@dataclass(frozen=True)
class Driver:
    """tests/csrc/mutate_<op>.cu, which runs csrc/cuda/<op>.cu on one element type: quick to build."""

    op: str
    element: str
    files: str  # a pattern of sites left out

    def __str__(self):
        return f"{self.op}-{self.element}"

    def build(self, folder, site=None):
        """The kernels as they are, or without `site`."""
        shutil.copytree(KERNELS, folder / "cuda")
        for header in ROOT.glob("csrc/*.h"):
            shutil.copy(header, folder)
        if site is not None:
            (folder / "cuda" / site.file).write_text(site.taken_out())
        cu = folder / "cuda" / f"{self.op}.cu"
        cu.write_text(re.sub(r"^INSTANTIATE\(.*\);$", "", cu.read_text(), flags=re.M))
        program = folder / "driver"
        driver = ROOT / f"tests/csrc/mutate_{self.op}.cu"
        command = [*COMPILE, f"-I{folder}", f"-DELEMENT={self.element}", "-O1", str(driver), "-o", str(program)]
        subprocess.run(command, check=True)
        return program


@dataclass(frozen=True)
class Site:
    """A barrier or a wait: the `number`-th of its file."""

    file: str
    number: int

    @property
    def match(self):
        return list(sites_of(self.file))[self.number]

    def taken_out(self):
        text = text_of(self.file)
        return text[: self.match.start()] + ";" + text[self.match.end() :]

    def __str__(self):
        line = text_of(self.file).count("\n", 0, self.match.start()) + 1
        return f"{self.file}:{line}-{self.match[1]}"


def text_of(file):
    return (KERNELS / file).read_text()


def sites_of(file):
    """Calls only: a definition is not followed by a semicolon."""
    return NEEDED.finditer(text_of(file))


def all_sites():
    files = sorted(path.name for path in KERNELS.iterdir())
    return [Site(file, number) for file in files for number in range(len(list(sites_of(file))))]


def ran(program, seeds=8):
    """The driver's output, one line per seed, and its exit status: a mutant may crash."""
    done = subprocess.run([str(program), str(seeds)], capture_output=True, text=True, timeout=120)
    return done.stdout.splitlines(), done.returncode
