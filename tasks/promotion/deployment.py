"""What Prefect calls the flow that asks a person, and its deployment; apart, since a worker needs no more of it."""

FLOW, DEPLOYMENT = "ask-a-person", "gpt2flow"
