"""Lets llama.cpp go on with a prompt, always by the likeliest token, and prints tokens and log-probabilities: FILE PROMPT."""

import json
import sys

import xllamacpp

settings = xllamacpp.CommonParams()
settings.model.path, prompt = sys.argv[1:]
settings.n_ctx, settings.n_parallel, settings.verbosity, settings.warmup = 32, 1, -1, False
asked = {"prompt": prompt, "max_tokens": 12, "temperature": 0.0, "logprobs": 1, "cache_prompt": False}
found = xllamacpp.Server(settings).handle_completions(asked)
tokens = (found if isinstance(found, dict) else json.loads(found))["choices"][0]["logprobs"]["content"]
answer = {"tokens": [token["id"] for token in tokens], "log_probabilities": [token["logprob"] for token in tokens]}
print("\n" + json.dumps(answer))
