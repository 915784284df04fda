"""Errors that a user can mend. The command line prints them as one line, without a traceback."""


class UserError(Exception):
    """Something the user gave is wrong; the message says what and how to mend it. Exit code 1."""


class UsageError(UserError):
    """The command's words are wrong (options that exclude each other, for instance). Exit code 2."""
