"""LangGraph's own conformance suite, all capabilities, on a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from perdure.checkpoint import ValkeySaver
from perdure.valkey.embedded import EmbeddedValkey

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("capability", [capability.value for capability in Capability])
async def test_the_saver_passes_the_official_suite(valkey: EmbeddedValkey, capability: str) -> None:
    """Each capability is detected and each of its tests passes."""

    @checkpointer_test(name="ValkeySaver")
    async def saver() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        async with ValkeySaver.from_url(valkey.url) as made:
            yield made

    report = await validate(saver, capabilities={capability})
    result = report.results[capability]
    assert result.detected
    assert result.failures == []
    assert result.tests_passed > 0
