"""Errors that a user can correct. The command line prints them as one line, without a traceback."""


class UserError(Exception):
    """Something that the user gave is wrong; the message says what, and how to correct it. Exit code 1."""


class UsageError(UserError):
    """The command line is wrong, for instance because two options exclude each other. Exit code 2."""
