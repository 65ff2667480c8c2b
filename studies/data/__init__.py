"""Loaders of the studies: from the formats that the data sets are published in to tensors.

`PLINIO_SWEEP_DATA` names the folder that holds the data sets. What is decoded from it is kept in
the user's cache folder, or where `PLINIO_SWEEP_DATA_CACHE` says.
"""
