"""What users configure: connections, clusters, queues, launchers, and where an asset's payload runs."""
