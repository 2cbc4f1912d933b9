"""Long-term memory: LangGraph's `BaseStore` on plain Valkey or Redis."""

from perdure.checkpoint.long_term.store import ValkeyStore

__all__ = ["ValkeyStore"]
