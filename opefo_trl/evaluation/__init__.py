"""Completions drawn for math benchmarks, kept, scored and compared."""
