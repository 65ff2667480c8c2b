"""What every message to a user has in common."""

from __future__ import annotations


def is_sentence(message: object) -> bool:
    """Whether a message is one line that ends as a sentence does."""
    text = str(message)
    return "\n" not in text and text.endswith((".", "?"))
