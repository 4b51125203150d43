"""The one exception a reader should ever see from edgelab: a single clear line."""

from __future__ import annotations


class EdgelabError(Exception):
    """What was expected, what came, and what to do, in one line."""
