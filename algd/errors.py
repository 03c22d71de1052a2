"""What a person is told in one sentence, without a trace."""


class UsageError(Exception):
    """A wrong name, value, file or device. The message is one sentence that names the value, the place
    and what is allowed; `run.py` prints it alone and exits with code 2, before anything has been created."""


class RunError(Exception):
    """A run cannot go on. The message is one sentence: what happened, where, and what was kept of it; `run.py`
    prints it alone and exits with code 1."""


class NumericalError(RunError):
    """A value is not finite: of an observation, a reward, a cost, a loss, an action or a network."""


class SimulatorError(RunError):
    """The environment failed within an episode. What it raised, if it did, is the cause."""
