"""A signal is remembered until a step at which all ranks stop; a second one does not wait."""

import signal
from types import SimpleNamespace

import pytest

from electra_kernels._interrupt import Terminated, stop_signals_raise
from electra_kernels.training.stop import StopRequest, stop_requests
from electra_kernels.training.world import World


@pytest.fixture(autouse=True)
def command_line():
    """Signals raise, as within a command."""
    with stop_signals_raise():
        yield


@pytest.mark.parametrize(
    "number, kind", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)], ids=["INT", "TERM"]
)
def test_the_first_signal_is_remembered_and_the_second_is_raised(number, kind):
    with stop_requests(World()) as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.agreed == number
        with pytest.raises(kind):
            signal.raise_signal(number)
    error = stop.error("step 3 is saved")
    assert type(error) is kind
    assert error.args == ("step 3 is saved",)


def test_the_handlers_come_back_after_the_block():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_requests(World()):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_ignored_signal_stays_ignored():
    """A shell starts background processes with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests(World()) as stop:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert not stop()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_rank_without_a_signal_stops_with_the_others():
    other_rank = signal.SIGTERM
    stop = StopRequest(SimpleNamespace(largest=lambda value: float(max(value, other_rank))))
    assert stop()
    assert isinstance(stop.error(""), Terminated)


def test_under_torchrun_a_second_signal_is_ignored(monkeypatch):
    """The terminal and torchrun both send it, and torchrun ends a rank as soon as another one has ended."""
    monkeypatch.setenv("RANK", "1")
    with stop_requests(World()) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert stop.agreed == signal.SIGINT
