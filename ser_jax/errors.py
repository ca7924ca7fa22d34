"""The one kind of error that a user's mistake raises."""


class UserError(Exception):
    """A user's mistake, in one line: what is wrong, where (file or option), and what was expected.

    `launch.py` prints it without a traceback and exits with status 2.
    """
