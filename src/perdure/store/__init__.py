"""Tasks, leases and events: the one truth."""
