"""What fits before anything is loaded: weights, pages and scratch in bytes, on this machine and on every Mac."""
