"""Draws, saves, scores and compares completions for math benchmarks."""
