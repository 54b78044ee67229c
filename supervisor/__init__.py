"""The supervisor: it loads kernel programs, keeps their workers alive, and owns what must outlive a crash."""

__version__ = "0.1.0"
