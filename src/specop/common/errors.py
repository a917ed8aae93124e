"""The errors of specop, one tree; callers branch on the type, never on the text.

    SpecopError
    ├── Retryable        the same call may succeed later (network, 429, 5xx): backoff with jitter
    │   └── Unreachable  what a Job's process needs does not answer; carries a reason
    ├── Conflict         somebody wrote first (409): read again, plan again
    └── Terminal         no retry can help until the user changes something; carries a reason
        └── UserError    raised inside a Job's process: ends it with EXIT_USER_ERROR

A reason is CamelCase, comes from `specop.api.reasons`, and goes to a condition; the message says what to do and never
quotes the content of traffic.
"""

EXIT_OK = 0
EXIT_USER_ERROR = 64
"""A typed user error: `result.json` says which; the Job fails at once (podFailurePolicy FailJob)."""
EXIT_PREEMPTED = 75
"""SIGTERM came and a checkpoint was saved; the Job ignores it and starts another pod (podFailurePolicy Ignore)."""


class SpecopError(Exception):
    """Base of all errors that specop raises on purpose."""


class Retryable(SpecopError):
    """The same call may succeed later."""

    def __init__(self, message: str, *, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class Unreachable(Retryable):
    """Something that a Job's process needs did not answer, or only with errors of its own."""

    reason: str


class Conflict(SpecopError):
    """Another writer was first; gather again."""


class Terminal(SpecopError):
    """Waits for a new generation of the object."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, or it could not travel between processes
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


class UserError(Terminal):
    """What a user can mend, found inside a Job's process."""
