"""Promotion by evidence: candidate against champion, rules, the ledger, aliases, rollback.

`tasks.evidence` says what is known, `rules` what follows from it; `ledger` keeps it and `aliases` act on it, in that order. Not
for registering (`tasks.register_model`). From outside: `stages`, `rollback`, `history`, `versions`, `approval`.
"""
