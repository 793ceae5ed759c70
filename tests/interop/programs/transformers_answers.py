"""Loads a model with transformers, writes its logits, and saves it again in shards: FOLDER TEXT OUTPUT.npz SHARDS."""

import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, text, output, shards = sys.argv[1:]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
ids = tokenizer(text, return_tensors="pt")["input_ids"]
with torch.no_grad():
    np.savez(output, ids=ids.numpy(), logits=model(ids).logits.numpy())
model.save_pretrained(shards, max_shard_size="20KB")
tokenizer.save_pretrained(shards)
