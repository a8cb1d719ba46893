"""The kernels, each with its twin in plain MLX operations."""
