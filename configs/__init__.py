"""Ready-made runs in YAML, and the typed schema that checks them."""
