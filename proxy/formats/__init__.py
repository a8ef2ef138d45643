"""The JSON dialects of clients and providers: pure parsers and renderers, one file a format."""
