"""Where workers run: each engine starts N idempotent workers and nothing else."""
