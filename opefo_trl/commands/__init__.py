"""The command `opefo`: train, evaluate, plot, inspect, recipes."""
