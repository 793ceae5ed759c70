"""Evidence for a promotion: the deciding text, who takes part, what is measured of each, both side by side.

Not for the verdict (`tasks.promotion.rules`). From outside: every module.
"""
