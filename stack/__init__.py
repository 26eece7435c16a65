"""One command starts everything the product needs and keeps it running (docs/operations/running.md).

Nothing here imports Django: the supervisor must come up, and explain itself, when the product cannot."""
