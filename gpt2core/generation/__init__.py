"""From a prompt to text: the decoding loop, how a token is chosen, stop texts, streaming, small weights for speed.

Not for measuring a model (`gpt2core.evaluation`). From outside: `completion`, `sampling`, `streaming`, `inference`.
"""
