"""Sub-command of ``warmswap``: ``bench``."""
