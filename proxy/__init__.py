"""The data plane: one call from the client to a provider and back, governed and metered on the way."""
