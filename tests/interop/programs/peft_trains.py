"""Puts adapters on a model, saves them alone and writes the logits with them: FOLDER ADAPTERS OUTPUT.npz."""

import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

folder, adapters, output = sys.argv[1:]
torch.manual_seed(0)
settings = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), settings).eval()
with torch.no_grad():
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.normal_(0.0, 0.1)
    ids = torch.arange(16)[None]
    np.savez(output, ids=ids.numpy(), logits=model(ids).logits.numpy())
model.save_pretrained(adapters)
