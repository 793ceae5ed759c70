"""What Prefect calls the flow that evaluates one checkpoint, and its deployment; apart, since a worker needs no more of it."""

FLOW, DEPLOYMENT = "evaluate-checkpoint", "gpt2flow"
