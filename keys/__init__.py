"""API keys: their shape, how they are issued, and how a request proves that it holds one."""
