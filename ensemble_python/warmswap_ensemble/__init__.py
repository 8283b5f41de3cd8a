"""What runs inside the server: contracts, image code and the face-swap pipeline.

Empty on purpose, so that importing ``warmswap_ensemble.contract`` costs nothing.
"""
