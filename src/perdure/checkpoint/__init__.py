"""LangGraph's checkpoints and long-term memory on plain Valkey or Redis: `ValkeySaver` and `long_term.ValkeyStore`."""

from perdure.checkpoint.saver import ValkeySaver

__all__ = ["ValkeySaver"]
