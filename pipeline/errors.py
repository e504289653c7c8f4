"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Something outside the program is wrong: a file, an argument, the machine.

    Its text names the file or setting, what was expected, what was found and what to do. The command lines
    print it as ``error: <text>`` without a traceback and exit with status 1; anything else is a bug and keeps
    its traceback.
    """
