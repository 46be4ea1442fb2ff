"""ProtoSAM: segment a volume by clicking; learns from every case that is finished."""

from __future__ import annotations

__version__ = "0.1.0"
