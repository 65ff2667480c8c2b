"""What people look at: fronts, tables, figures and the dashboard. Reads, never runs."""
