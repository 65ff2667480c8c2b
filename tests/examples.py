"""How many examples a property is tried on."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
from hypothesis import settings

WIDE = "wide"  # the profile with -m long
SHARE = 0.3  # of the examples that other runs take


def heavy(wide: int, **given: Any) -> Callable[[Any], Any]:
    """Settings of a property that takes seconds: with `-m long` it is tried on `wide` examples.

    There it counts as long, so that it is run at all.
    """
    if settings.get_current_profile_name() != WIDE:
        return settings(max_examples=ceil(SHARE * wide), **given)
    return lambda test: pytest.mark.long(settings(max_examples=wide, **given)(test))
