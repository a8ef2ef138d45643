"""The data plane: takes a client's request, admits it, sends it to a provider, relays and meters the answer, and settles it."""
