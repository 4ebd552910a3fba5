"""Errors that are meant for the user rather than for the programmer."""

from collections.abc import Sequence


class InputError(Exception):
    """Something the user can put right: a wrong key, file, shape or option.

    The message says what is wrong, where, why, and how to fix it. The command line prints it
    without a traceback; anything else that is raised is a defect of diffff and keeps its traceback.
    """


class InputErrors(InputError):
    """Several problems found in one go, one per line.

    Attributes:
        problems: The messages, in the order they were found.

    Example:
        >>> print(InputErrors(["a.json: $.x: unknown key", "a.json: $.y: missing"]))
        a.json: $.x: unknown key
        a.json: $.y: missing
    """

    def __init__(self, problems: Sequence[str | InputError]) -> None:
        self.problems = [str(problem) for problem in problems]
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)
