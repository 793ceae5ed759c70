"""The processes of a run beside the first one: started here or by torchrun, met, watched, led.

What they compute is `gpt2core.distributed`'s business, what the others do on a word of the first is in
`tasks.finetuning.follow`. From outside: `ranks`, `meeting`, `started_processes`.
"""
