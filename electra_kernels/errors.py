"""The one exception that the command line prints as one line."""


class UserError(Exception):
    """A mistake of the user: printed as one line by the command line."""
