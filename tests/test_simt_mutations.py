"""Every barrier and wait of the GPU kernels is needed: without it, csrc/simt gives other bits or an error."""

import re

import pytest
from mutations import Driver, all_sites, ran

pytestmark = pytest.mark.long
DRIVERS = [
    Driver("conv2d", "float", r"(gemm|conv2d_product)\.cuh"),
    Driver("conv2d", "torchext::BFloat16", r"(gemm|conv2d_product)\.cuh"),  # four stages and tensor cores
    Driver("conv2d_relu_max_pool2d", "float", r"conv2d_relu_max_pool2d.*"),
    Driver("cross_entropy", "float", r"(cross_entropy.*|reduce\.cuh)"),
    Driver("linear_relu", "float", r"(gemm|relu_backward)\.cuh"),
]
SITES = all_sites()
PAIRS = [(driver, site) for driver in DRIVERS for site in SITES if re.fullmatch(driver.files, site.file)]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Each driver with the kernels as they are, built once."""
    built = {}

    def get(driver):
        if driver not in built:
            built[driver] = driver.build(tmp_path_factory.mktemp(driver.op) / "original")
        return built[driver]

    return get


def test_every_site_has_a_driver():
    assert {site for _, site in PAIRS} == set(SITES)


@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_unmodified_kernels_give_the_same_bits_in_any_order(originals, driver):
    lines, code = ran(originals(driver), seeds=40)
    assert code == 0 and len(lines) == 40 and len(set(lines)) == 1 and "simt" not in lines[0]


@pytest.mark.parametrize("driver, site", PAIRS, ids=str)
def test_a_kernel_without_one_barrier_or_wait_does_not(originals, tmp_path, driver, site):
    assert ran(driver.build(tmp_path / "mutant", site)) != ran(originals(driver))
