"""The maintainers' tools: run by hand, never by the product."""
