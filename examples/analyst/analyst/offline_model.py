"""A chat model that needs no key and no network: rules that stream like a provider. It is no language model."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from analyst.offline.roles import Reply, reply

DEFAULT_PACE_S: Final = 0.012
_TOKEN: Final = re.compile(r"\s*\S{1,5}|\s+$")


class OfflineChatModel(BaseChatModel):
    """Answers the prompts of this analyst by rules over their text.

    It streams reasoning, text and tool calls token by token, as content blocks of LangChain's v1 form, with a pause of
    `pace_s` between two tokens, so that a task lasts as long as it takes to watch it.
    """

    pace_s: float = DEFAULT_PACE_S
    output_version: str | None = "v1"

    @classmethod
    def from_environment(cls) -> OfflineChatModel:
        """The model with the pace that `PERDURE_OFFLINE_PACE_S` names, in seconds a token."""
        named = os.environ.get("PERDURE_OFFLINE_PACE_S", "")
        try:
            pace_s = float(named) if named else DEFAULT_PACE_S
        except ValueError:
            raise ValueError(
                f"PERDURE_OFFLINE_PACE_S is {named!r}, which is no number. Set it to seconds a token, such as 0.012."
            ) from None
        return cls(pace_s=max(0.0, pace_s))

    @property
    def _llm_type(self) -> str:
        return "perdure-offline-rules"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self._llm_type, "pace_s": self.pace_s}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools; the first one that takes an argument `sql` is called when a query is to be written."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(_chunks(messages, kwargs.get("tools")))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(messages, kwargs.get("tools")):
            yield chunk
            time.sleep(self.pace_s)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(messages, kwargs.get("tools")):
            yield chunk
            # Also at pace 0 the loop gets its turn between two tokens, as it would with a provider.
            await asyncio.sleep(self.pace_s)


def _chunks(messages: list[BaseMessage], tools: list[dict[str, Any]] | None) -> Iterator[ChatGenerationChunk]:
    said = reply(messages)
    index = -1
    written = 0
    for kind, text in (("reasoning", said.reasoning), ("text", said.text)):
        index += 1 if text else 0
        for token in _TOKEN.findall(text):
            written += 1
            yield _chunk(content=[{"type": kind, kind: token, "index": index}])
    if name := _sql_tool(tools) if said.sql else None:
        for chunk in _tool_call(name, said, index + 1):
            written += 1
            yield chunk
    read = sum(len(_TOKEN.findall(str(message.text))) for message in messages)
    usage = UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content=[],
            usage_metadata=usage,
            response_metadata={
                "model_name": "perdure-offline-rules",
                "finish_reason": "tool_calls" if name else "stop",
            },
            chunk_position="last",
        )
    )


def _tool_call(name: str, said: Reply, index: int) -> Iterator[ChatGenerationChunk]:
    call_id = f"call_{hashlib.sha256(said.sql.encode()).hexdigest()[:16]}"
    arguments = json.dumps({"sql": said.sql})
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content=[], tool_call_chunks=[tool_call_chunk(name=name, args="", id=call_id, index=index)]
        )
    )
    for token in _TOKEN.findall(arguments):
        yield ChatGenerationChunk(
            message=AIMessageChunk(content=[], tool_call_chunks=[tool_call_chunk(args=token, index=index)])
        )


def _chunk(content: list[str | dict[Any, Any]]) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=content))


def _sql_tool(tools: list[dict[str, Any]] | None) -> str | None:
    for tool in tools or []:
        function = tool.get("function", {})
        if "sql" in function.get("parameters", {}).get("properties", {}):
            return str(function["name"])
    return None
