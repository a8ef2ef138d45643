"""Wiring only: settings, URLs, the ASGI entry, the embedded servers and the shared clients. No rules live here."""
