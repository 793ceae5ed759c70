"""What a model is worth on text: loss, bits per byte, calibration, memorisation, sample quality, zero-shot tasks.

Not for deciding what happens with the model (`tasks`). From outside: every module but `windows`.
"""
