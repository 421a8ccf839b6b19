"""Countdown puzzles: see README.md."""
