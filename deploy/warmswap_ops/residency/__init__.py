"""Which models are in memory: those that always are, and those that come when a request needs them."""
