"""The gradient methods: one file a method, over one abstract search."""

from __future__ import annotations

from plinio_sweep.methods.pit import PITSettings

# Settings record of each method by its name in an order ("pit>pit").
METHODS = {PITSettings.name: PITSettings}
