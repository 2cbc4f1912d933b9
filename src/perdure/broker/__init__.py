"""The doorbell: tells a tier that a task waits. It carries ids, never a payload."""
