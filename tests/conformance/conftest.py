"""Runs every test that takes ``device`` once for each back end, instruction set and device that this machine has."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from electra_kernels import backends, use_backend

from .cases import DTYPES, workload

CONFIGURATIONS = [
    (backend, level, device)
    for backend, devices in backends().available.items()
    for level in backends().levels.get(backend, (None,))
    for device in devices
    if device == "cpu" or torch.cuda.is_available()
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--examples", type=int, help="number of new examples per property; by default a few, always the same"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Sets the number of examples per property. Machines with a GPU may lack hypothesis."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import HealthCheck, settings

    examples = config.getoption("--examples", None)
    settings.register_profile(
        "properties",
        max_examples=examples or workload(25, interpreted=8),
        derandomize=examples is None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@pytest.fixture(params=CONFIGURATIONS, ids=lambda parts: "-".join(filter(None, parts)))
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device for the test's tensors. One back end serves every op until the test ends."""
    backend, level, name = request.param
    with use_backend(backend, isa=level):
        yield torch.device(name)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
