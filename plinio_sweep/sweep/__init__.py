"""The outer search: a space of plans, the trials that run them, the study that walks them."""
