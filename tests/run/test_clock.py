"""A run's clock, on a device with simulated time."""

from algd.run.clock import STATUS_SECONDS, Clock


class Machine:
    """A device on which an update takes 1 s to launch and is done 3 s later."""

    def __init__(self) -> None:
        self.now = 100.0
        self.busy_until = 0.0

    def launch(self) -> None:
        self.now += 1.0
        self.busy_until = self.now + 3.0

    def synchronise(self) -> None:
        self.now = max(self.now, self.busy_until)


def test_an_update_takes_until_the_device_is_done_with_it() -> None:
    machine = Machine()
    clock = Clock({}, machine.synchronise, lambda: machine.now)
    assert clock.rates(0, 10) == {"updates_per_second": None, "seconds_left": None}
    assert clock.times()["updates_per_second"] is None
    for step in (1, 2):
        with clock.updating(step, 1):
            machine.launch()
        machine.now += 6.0  # the environment's step
    assert clock.times() == {"updates_per_second": 2 / 8, "timed_updates": 2, "update_seconds": 8.0, "seconds": 20.0}
    assert clock.rates(2, 10) == {"updates_per_second": 2 / 8, "seconds_left": 8 * 20.0 / 2}


def test_earlier_starts_count() -> None:
    machine = Machine()
    clock = Clock({"seconds": 50.0, "timed_updates": 10, "update_seconds": 2.0}, now=lambda: machine.now)
    with clock.updating(101, 2):
        machine.now += 4.0
    assert clock.times() == {"updates_per_second": 12 / 6, "timed_updates": 12, "update_seconds": 6.0, "seconds": 54.0}
    assert clock.rates(101, 201) == {"updates_per_second": 2 / 4, "seconds_left": 400.0}


def test_the_status_is_due_at_once_and_then_now_and_then() -> None:
    machine = Machine()
    clock = Clock({}, now=lambda: machine.now)
    assert clock.is_status_due() and not clock.is_status_due()
    machine.now += STATUS_SECONDS
    assert clock.is_status_due() and not clock.is_status_due()
