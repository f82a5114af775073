"""The registry of LLMs."""

from kflm2.llm import registry


def test_every_hub_id_is_pinned_to_a_commit() -> None:
    for row in registry.LLMS.values():
        assert bool(row.hub_id) != bool(row.gguf)
        assert not row.hub_id or (len(row.revision) == 40 and int(row.revision, 16))
