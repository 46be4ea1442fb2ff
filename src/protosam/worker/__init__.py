"""The worker process: it owns the device, answers requests over the wire, and keeps only caches."""

from __future__ import annotations
