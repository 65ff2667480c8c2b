"""The nets of the studies, and the same nets with choices in the place of layers."""
