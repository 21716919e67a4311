"""Adaptation to own data within a given time.

The room holds one search over methods, folds and schedules, the choice of a model, and
its report.

`sweep.AdaptationSweep` runs everything. `search.AdaptationSearch` is the search as the
controller of a sweep sees it; `policy` decides which trial starts next, and
`last_training` which model trains on at the end. `judge.Judge` chooses the model from
the stored outputs of trials, `report` says what is known of it, and `page` shows that.
"""
