"""``python -m warmswap_ops``: ``warmswap serve`` without the search for other commands, for a container's process 1."""

import argparse
import sys

from warmswap_ops.commands import serve
from warmswap_ops.errors import OpsError


def main() -> int:
    """Serve; print a failure as one line."""
    parser = argparse.ArgumentParser(prog="python -m warmswap_ops", description=serve.HELP)
    serve.add_arguments(parser)
    try:
        return serve.run(parser.parse_args())
    except OpsError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
