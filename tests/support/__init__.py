"""What tests of several rooms need: waiting, sandboxes, Dagster's storage, projects, durations."""
