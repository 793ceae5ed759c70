"""`python -m flows.cli` is `gpt2flow`."""

from flows.cli.main import main

main()
