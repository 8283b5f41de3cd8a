"""Rollouts under load: good and bad candidates, one after the other, and what the requests notice of them."""
