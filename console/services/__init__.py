"""The verbs of the console: each action of an operator, recorded."""
