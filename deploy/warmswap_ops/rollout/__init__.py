"""Put a new version of one model in place of the one that is served."""
