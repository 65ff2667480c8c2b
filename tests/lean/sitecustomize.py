"""Loaded by every Python that tests start: for most of them the dashboard is not installed.

It takes seconds to load in each process, and has each worker write graphs of the front for it.
"""

import os
import sys

if "TESTS_WITH_DASHBOARD" not in os.environ:
    # Python's own word for a module that is not there: importing it raises ImportError, as it does
    # for people who have not installed the extra.
    sys.modules["optuna_dashboard"] = None  # type: ignore[assignment]
