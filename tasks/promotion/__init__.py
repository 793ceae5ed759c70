"""Promotion by evidence: candidate against champion on the same frozen text, rules, aliases, ledger.

`evidence` says what is known, `rules` what follows from it; `ledger` keeps it and `aliases` act on it, in that order.
"""
