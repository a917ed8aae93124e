"""What the command line says when it cannot go on, and the exit codes that scripts may rely on."""

EXIT_OK = 0
EXIT_REFUSED = 1
"""The cluster answered, but what was asked for does not exist, is not allowed or makes no sense."""
EXIT_USAGE = 2
"""argparse's own."""
EXIT_UNREACHABLE = 3
"""No cluster answered."""


class CliError(Exception):
    """One line for the person at the keyboard, and the exit code."""

    def __init__(self, message: str, code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        self.code = code
