"""The exception for mistakes of the user."""


class UserError(Exception):
    """A mistake of the user. The command line prints its message as one line, without a traceback."""
