"""What a user can put right: reported as one sentence, never as a traceback."""


class UsageError(Exception):
    """A wrong name, value, file or device. The message is one sentence that names the value, the place
    and what is allowed; `run.py` prints it alone and exits with code 2, before anything has been created."""
