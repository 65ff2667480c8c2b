"""The panels of a study on pages: each a pure function from a record to a plotly figure."""
