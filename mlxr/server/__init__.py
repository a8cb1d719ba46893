"""The HTTP server: OpenAI's and Anthropic's interfaces over one engine, metrics, and a chat page."""
