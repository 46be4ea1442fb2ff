"""The wire: how a host and its worker process talk. Free of torch, and quick to import."""

from __future__ import annotations
