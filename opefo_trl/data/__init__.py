"""Datasets: loaded by name or file, and turned into prompts with their solutions."""
