"""Load scenarios against a running stack, with a report. Never timed tests: a number belongs to a machine.

Nothing here imports Django: the harness is a client. A scenario is one small file in `scenarios/`
(docs/benchmarks.md).
"""
