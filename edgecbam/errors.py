"""What can go wrong, sorted by whose turn it is: the exit codes of the command line hang on these classes.

Every message is one line that says what is wrong and how to mend it.
"""


class EdgeCbamError(Exception):
    """Base of all errors that edgecbam raises on purpose."""

    exit_code = 3


class GateFailed(EdgeCbamError):
    """A proof did not hold: parity, accuracy, latency or an altered file in ``verify``. Exit code 1."""

    exit_code = 1


class InputError(EdgeCbamError):
    """The user's input (recipe, data, run folder, model file, option) is wrong. Exit code 2."""

    exit_code = 2


class EnvironmentFailure(EdgeCbamError):
    """The machine or edgecbam itself failed (disk full, NaN in training, missing runtime). Exit code 3."""

    exit_code = 3


class MissingPackage(EnvironmentFailure):
    """A package that this step needs is not installed; the message holds the command that adds it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: pip install 'edgecbam[{extra}]'")
        self.package = package
        self.extra = extra
