"""What the DICOM libraries raise on damaged files; found by cutting and scrambling them.

pydicom decodes a value when it is asked for, so any access to a header may raise any of these.
`ProtoSAMError` is caught before them where both may come: `InvalidInput` is a ValueError, too.
"""

from __future__ import annotations

import struct
import zlib

from pydicom.errors import BytesLengthException, InvalidDicomError

DAMAGED = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
