"""A small Dagster project that the fault suite runs, kills, cancels and retries."""
