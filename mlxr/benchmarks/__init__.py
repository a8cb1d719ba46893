"""Benchmarks: tokens a second of whole engines, and time, bandwidth and error of single kernels."""
