"""Every test that takes ``device`` runs once for each back end, instruction set and device that can run here."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from electra_kernels import backends, use_backend

from .cases import quantity

TARGETS = [
    (backend, level, device)
    for backend, devices in backends().available.items()
    for level in backends().levels.get(backend, (None,))
    for device in devices
    if device == "cpu" or torch.cuda.is_available()
]
HALF_AND_SINGLE = (torch.float32, torch.bfloat16, torch.float16)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--examples", type=int, help="new cases for each property, instead of a few that stay the same"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The budget of the properties; a machine with a GPU may be without hypothesis."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import HealthCheck, settings

    examples = config.getoption("--examples", None)
    settings.register_profile(
        "properties",
        max_examples=examples or quantity(25, interpreted=8),
        derandomize=examples is None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@pytest.fixture(params=TARGETS, ids=["-".join(filter(None, target)) for target in TARGETS])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device to put tensors on; the ops are served by one back end for the length of the test."""
    backend, level, name = request.param
    with use_backend(backend, isa=level):
        yield torch.device(name)


@pytest.fixture(params=HALF_AND_SINGLE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
