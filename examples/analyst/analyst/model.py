"""Chooses the chat model: what `PERDURE_MODEL` names, or the offline one that needs no key and no network."""

from __future__ import annotations

import os
from functools import lru_cache

from langchain_core.language_models import BaseChatModel

from analyst.offline_model import OfflineChatModel


@lru_cache(maxsize=1)
def chat_model() -> BaseChatModel:
    """The model that all steps of this process talk to, made at the first call.

    `PERDURE_MODEL` is what LangChain's `init_chat_model` takes, for instance `openai:gpt-5-mini`. The provider's own
    package must be installed; when it is not, the error says which one.
    """
    if name := os.environ.get("PERDURE_MODEL"):
        try:
            from langchain.chat_models import init_chat_model
        except ImportError as error:
            raise ImportError(
                f"PERDURE_MODEL is {name!r}, but the package langchain, which opens such models, is not installed. "
                "Mend it with: uv pip install langchain"
            ) from error
        model: BaseChatModel = init_chat_model(name)
        return model
    return OfflineChatModel.from_environment()
