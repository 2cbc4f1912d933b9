"""The questions that the demo asks, and the hint at a real model when one is within reach."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

# The second one is not answered by its first query: the ranking is led by an airport with a single flight.
DEMO_QUESTIONS: Final = (
    "Which airline had the worst average departure delay from JFK in July?",
    "Which destinations have the lowest average arrival delay?",
    "Compare the share of cancelled flights at JFK, LGA and EWR",
    "Which aircraft manufacturer flew the most miles in December?",
)

_PROVIDERS: Final[Mapping[str, str]] = {
    "ANTHROPIC_API_KEY": "anthropic:claude-sonnet-4-5",
    "OPENAI_API_KEY": "openai:gpt-5-mini",
    "GOOGLE_API_KEY": "google_genai:gemini-2.5-flash",
    "MISTRAL_API_KEY": "mistralai:mistral-medium-latest",
    "GROQ_API_KEY": "groq:llama-3.3-70b-versatile",
}
_OLLAMA: Final = ("127.0.0.1", 11434)
_CONNECT_S: Final = 0.2


def switch_hint(environment: Mapping[str, str] | None = None, local_server: tuple[str, int] = _OLLAMA) -> str | None:
    """The one line that makes the demo use a real model, when a provider's key or a local model server is found.

    None when there is neither, or when `PERDURE_MODEL` is set already. Looks at no key's value beyond whether it is
    there, and tries one loopback connection for at most 0.2 s.
    """
    found = os.environ if environment is None else environment
    if found.get("PERDURE_MODEL"):
        return None
    for key, model in _PROVIDERS.items():
        if found.get(key):
            package = f"langchain-{model.partition(':')[0].replace('_', '-')}"
            return (
                f"{key} is set. For a real model: "
                f"PERDURE_MODEL={model} uv run --with langchain --with {package} perdure demo"
            )
    if _listens(local_server):
        return (
            "A model server answers on this machine. For a real model: "
            "PERDURE_MODEL=ollama:llama3.1 uv run --with langchain --with langchain-ollama perdure demo"
        )
    return None


def _listens(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=_CONNECT_S):
            return True
    except OSError:
        return False
