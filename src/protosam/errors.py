"""The exceptions of ProtoSAM, and nothing else.

::

    ProtoSAMError                    base, never raised itself
    +-- InvalidInput                 what was given cannot be used (also a ValueError)
    |   +-- GeometryError            an affine, spacing or grid that cannot be trusted
    |   +-- InvalidPrompt            a prompt outside the volume, a box of no volume ...
    |   +-- UnreadableFile           a file that is not what its name says
    +-- ModelUnavailable             weights missing, unknown or not loadable
    |   +-- WeightsRefused           wrong digest, corrupt, or a pickle that holds code
    +-- OutOfMemory                  the device could not hold the work
    +-- StorageFailure               nothing could be written (no space, no permission)
    +-- Cancelled                    the caller no longer wants the answer
    +-- MissingExtra                 an optional library is not installed
    +-- ServerFailure                a PACS that is not reachable, refuses, or sends broken answers
    +-- WorkerFailure                the worker could not do its part
        +-- WorkerDied               the process ended, with its last log lines
        +-- ProtocolMismatch         the two ends speak different versions
        +-- BrokenFrame              bytes that are not a frame

Every error carries three sentences that a user can act on: what was given, what was
wanted and the next step. They travel over the wire as ``kind``, ``message``, ``next_step``.
"""

from __future__ import annotations


class ProtoSAMError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message : str
        What was given and what was wanted, as one or two sentences.
    next_step : str, optional
        What the user can do about it, as a sentence.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    @property
    def kind(self) -> str:
        """Name of the class, as it travels over the wire."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}".strip()


class InvalidInput(ProtoSAMError, ValueError):
    """What was given cannot be used."""


class GeometryError(InvalidInput):
    """An affine, spacing or grid that cannot be trusted."""


class InvalidPrompt(InvalidInput):
    """A prompt that cannot be obeyed: outside the volume, empty, contradictory."""


class UnreadableFile(InvalidInput):
    """A file that is missing or is not what its name says."""


class ModelUnavailable(ProtoSAMError):
    """Weights that are missing, unknown or not loadable."""


class WeightsRefused(ModelUnavailable):
    """Weights with a wrong digest, a corrupt file, or a pickle that holds code."""


class OutOfMemory(ProtoSAMError):
    """The device could not hold the work."""


class StorageFailure(ProtoSAMError):
    """Nothing could be written: no space, no permission, no such folder."""


class Cancelled(ProtoSAMError):
    """The caller no longer wants the answer."""


class MissingExtra(ProtoSAMError):
    """An optional library is not installed."""


class ServerFailure(ProtoSAMError):
    """A PACS that did not do its part: not reachable, refusing, or sending broken answers."""


class WorkerFailure(ProtoSAMError):
    """The worker could not do its part."""


class WorkerDied(WorkerFailure):
    """The worker process ended; the message holds its exit code and last log lines."""


class ProtocolMismatch(WorkerFailure):
    """The two ends of the wire speak different protocol versions."""


class BrokenFrame(WorkerFailure):
    """Bytes on the wire that are not a frame."""


_KINDS: dict[str, type[ProtoSAMError]] = {
    cls.__name__: cls
    for cls in (
        InvalidInput,
        GeometryError,
        InvalidPrompt,
        UnreadableFile,
        ModelUnavailable,
        WeightsRefused,
        OutOfMemory,
        StorageFailure,
        Cancelled,
        MissingExtra,
        ServerFailure,
        WorkerFailure,
        WorkerDied,
        ProtocolMismatch,
        BrokenFrame,
    )
}


def from_kind(kind: str, message: str, next_step: str = "") -> ProtoSAMError:
    """Rebuild an error that travelled over the wire.

    Parameters
    ----------
    kind : str
        Class name as sent by the other end; an unknown name becomes `WorkerFailure`.
    message, next_step : str
        The sentences of the error.
    """
    return _KINDS.get(kind, WorkerFailure)(message, next_step)
