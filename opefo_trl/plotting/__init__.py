"""Runs read from their logs, judged and drawn."""
