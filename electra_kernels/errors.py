"""The exceptions for mistakes of the user."""


class UserError(Exception):
    """A mistake of the user. The command line prints its message as one line, without a traceback."""


class AgreedError(UserError):
    """A mistake that all processes of a training report together; the command line prints it in one of them."""
