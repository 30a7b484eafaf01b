"""Multilingual synthetic-data arbitrage. Read `arbitrage.pipeline` first."""

__version__ = "0.1.0"
