"""The gradient methods: one file a method, over one abstract search."""

from __future__ import annotations

from plinio_sweep.methods.l1 import L1Settings
from plinio_sweep.methods.mps import MPSSettings
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.methods.supernet import SuperNetSettings

MethodSettings = PITSettings | SuperNetSettings | MPSSettings | L1Settings

# Settings record of each method by its name in an order ("supernet>pit").
METHODS: dict[str, type[MethodSettings]] = {
    PITSettings.name: PITSettings,
    SuperNetSettings.name: SuperNetSettings,
    MPSSettings.name: MPSSettings,
    L1Settings.name: L1Settings,
}
