"""What a server does with every endpoint and field of the contract, asked from outside: it works, it is refused by
name, it is dropped in silence, or it is not there. `python -m bench.conformance --help`."""
