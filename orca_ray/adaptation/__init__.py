"""Adaptation to own data within a given time.

It consists of a search over methods, folds and schedules, the choice of a model, and a
report about the chosen model.

`sweep.AdaptationSweep` runs everything. `search.AdaptationSearch` is the search as the
controller of a sweep sees it. `policy` decides which trial starts next, and
`last_training` decides which model continues its training at the end. `judge.Judge`
chooses the model from the stored outputs of trials, `report` describes the chosen
model, and `page` shows the report.
"""
