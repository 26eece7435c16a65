"""The reference agent: a small runtime that speaks the agent side of the control plane's contract.

Standard library only, and no import of any other package of this repository: an image needs nothing but
python3, and many agents fit on one machine. `python -m agent --help` shows what it does.
"""

__version__ = "0.1.0"
