"""Builds and tries the container images: ``python -m images`` (``make image``)."""
