"""Finds what was lost and rings for it again."""
