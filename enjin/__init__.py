"""enjin: a cloud of your own, supervised ring by ring over a signed bus."""

__version__ = "0.1.0"
