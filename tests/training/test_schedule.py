import pytest

from electra_kernels.training.schedule import (
    Phase,
    Schedule,
    learning_rate_scale,
    one_phase,
    parse_schedule,
)

TWO = Schedule((Phase(128, 3), Phase(512, 1)))


def test_the_phases_follow_one_another():
    assert (TWO.steps, TWO.starts) == (4, [0, 3])
    assert (one_phase(64, 7).steps, one_phase(64, 7).starts) == (7, [0])


def test_a_training_advances_with_its_steps_and_stays_at_its_end():
    assert [TWO.fraction(step) for step in (0, 0.5, 1, 2, 4, 5)] == [0, 0.125, 0.25, 0.5, 1, 1]


@pytest.mark.parametrize(
    "text", ["128:900000,512:100000", "128:900000, 512:100000", " 128:900000 ,512:100000 "]
)
def test_a_schedule_is_read_as_it_is_written(text):
    schedule = parse_schedule(text)
    assert schedule == Schedule((Phase(128, 900_000), Phase(512, 100_000)))
    assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize(
    "text",
    ["", "128", "128:", ":5", "128:5,", "128:5;64:5", "128:-5", "128:5.5", "1e3:5", "128:" + "9" * 5_000],
)
def test_another_form_of_a_schedule_is_refused(text):
    with pytest.raises(ValueError, match="should be LENGTH:STEPS"):
        parse_schedule(text)


def test_a_phase_without_steps_is_refused():
    with pytest.raises(ValueError, match="steps is 0, should be at least 1"):
        parse_schedule("128:5,512:0")


def test_the_learning_rate_warms_up_and_decays_to_zero():
    scales = [learning_rate_scale(fraction, 0.2) for fraction in (0, 0.1, 0.2, 0.6, 1)]
    assert scales == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_without_warm_up_the_learning_rate_starts_at_its_peak():
    assert learning_rate_scale(0.0, 0.0) == 1.0
