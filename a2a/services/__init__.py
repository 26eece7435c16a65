"""The verbs over messages: their rows, their targets, the queue, its drain and its sweep, by subject."""
