"""The one exception that a user sees: a sentence that says what is wrong, where, and what to do."""


class UserError(Exception):
    """Something that the user can put right.

    Raised where the fact is known; the command line prints it as one sentence and leaves with exit code 2.
    The message names the file, row or key concerned and ends with the remedy.
    """
