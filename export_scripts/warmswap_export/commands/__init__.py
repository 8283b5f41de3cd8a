"""Sub-commands of ``warmswap``: ``export`` and ``verify``."""
