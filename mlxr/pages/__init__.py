"""The KV cache in pages: who holds which, how they are laid out, where they lie."""
