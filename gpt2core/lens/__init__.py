"""The logit lens: what each layer would say, as values, heat maps, pages and pictures.

Not for reports on runs (`tasks.reports`), which share its page parts. From outside: `reading`, `pages`, `maps`, `pictures`.
"""
