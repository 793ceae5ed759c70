"""The pipelines, and the command line in front of them."""
