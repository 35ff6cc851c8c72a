"""Many JSON schemas asked of servers, and whether what they answer is valid: `python -m bench.schemas`."""
