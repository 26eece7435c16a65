"""One small file per subject; `scenario.known` finds them."""
