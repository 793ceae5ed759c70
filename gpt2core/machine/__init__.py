"""What lies below: durable files, devices, number formats, free memory, the allocator.

Not for anything that knows of GPT-2, text or runs. From outside: every module.
"""
