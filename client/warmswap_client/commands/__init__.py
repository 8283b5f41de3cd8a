"""Sub-commands of ``warmswap`` that talk to a server; ``warmswap_client.cli`` says what each module offers."""
