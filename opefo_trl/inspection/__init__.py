"""A rollout batch, token by token, as a page for people to look at."""
