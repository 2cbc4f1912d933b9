"""The HTTP face: accepts tasks, shows how they stand, and streams their events."""
