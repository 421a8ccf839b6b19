"""The command `opefo`: train, evaluate, plot."""
