"""Reads runs from their logs, says what is wrong with them, and draws them."""
