"""What libraries say of values in a header, kept out of logs: it may quote a patient.

pydicom warns of unusual values and quotes them; so a date of birth in the wrong form would reach a
log. While a header is read or written, its warnings and its logger are silent. Errors are not.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("pydicom", "highdicom", "dicomweb_client")


@contextmanager
def quiet_headers() -> Iterator[None]:
    """No warnings and no log lines of the DICOM libraries while the block runs."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, was in zip(loggers, before, strict=True):
                logger.disabled = was
