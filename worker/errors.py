"""The one error tree. Owns what each kind of failure means for the stream; knows nothing of where it is caught.

An error of this tree carries one sentence for a person: what was wrong, its value, what is accepted, what to do next.
"""


class IntentError(Exception):
    """Base of every error that the project raises on purpose. The command line prints it in one line and exits 1."""

    exit_code = 1


class Invalid(IntentError):
    """An event that can never be processed. It becomes a dead letter with `reason`; the stream goes on.

    `reason` is a short stable code (a metric label, a dead-letter header); the message says what was found.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Fatal(IntentError):
    """The worker cannot go on without risking loss: it stops at once, uncommitted, and exits non-zero."""


class SettingError(IntentError):
    """A setting, topic or bundle is not usable. The command line exits 2 before anything is started."""

    exit_code = 2


class CheckFailed(IntentError):
    """A check that the user asked for did not hold (a doctor, a demo's balance, a verification). Exit code 3."""

    exit_code = 3
