"""Sub-commands of ``warmswap`` that operate a server."""
