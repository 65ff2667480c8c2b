"""Where results live: artefacts by content key, runs in MLflow."""
