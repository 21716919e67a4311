"""The search of own data: a race of configurations of several methods over folds,
within a given time.

Each method starts with its first configuration on the first fold, the cheapest method
first, with fewer epochs if it would take much of the time; with very few epochs, or
where bodies have taken their share, only after the leaders. Then fitted methods get
further folds, epochs and configurations where these are cheap; trials whose last epochs
still improved get a longer schedule; configurations that are not measurably worse than
the leader get further folds; and the best methods get further configurations, which
Optuna suggests. No trial starts whose expected duration exceeds the time that is left.
If the leader is a network of which few folds fit into the time, the model of its fold
trains on. With an outer test of classes or labels, it does so after the first trials,
on the samples of all folds; the outer test judges it, and then it goes on with all
samples; also if both of two folds fit, as their models have seen half of the samples.
If a probe of features leads, a network without a body may do so in the place of the
probe. Without an outer test, it does so at the end, on all samples.
"""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from statistics import mean, stdev

from scipy.special import entr

from orca_ray.methods.registry import get_method
from orca_ray.results.record import Record
from orca_ray.sweep.plan.searches import SearchPlan, num_epochs
from orca_ray.sweep.plan.trial_spec import canonical_json
from orca_ray.sweep.search.contender import (
    ALL,
    ALL_BUT_TEST,
    FOLD,
    SCHEDULE,
    START,
    Contender,
    changed,
    replaces,
)
from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.levels import levels
from orca_ray.sweep.search.sampler import suggest

_RATE = "refine.learning_rate"
FEW_FOLDS = 3
"""Number of folds from which the mean of their models stands for a configuration, and
no model that trained on.
"""
MOST_VARIANTS = 40
EARLY_VARIANTS = 3
FIRST_VARIANTS = 2
_MOST_REPEATED = 10
"""Largest number of suggested configurations of a method, their numbers before trials
that take longer and before second divisions of the folds, and largest number of
suggestions of the same at a time.
"""
LEAST_LONGER = 1.5
MOST_LONGER = 6.0
SHARE_OF_LONGER = 0.65
"""Least and largest factor of the epochs of a longer schedule, and of a training on
where there is an outer test; and the share of the time that is left which a longer
schedule may take, if three folds of it need not follow.
"""
SHARE_OF_FIRST = 0.08
SHARE_OF_FIRSTS = 0.2
LEAST_FIRST = 0.75
"""Share of all time that the first trial of a method is expected to take at most, and
the first trials of all methods that adapt a body before the leaders go on; and share of
its usual epochs below which such a trial would tell nothing, so that the leaders go on
first.
"""
LEAST_LAST = 0.2
MOST_LAST = 2.0
RATE_OF_LAST = 0.5
SHARE_BUT_TEST = 2 / 3
"""Least number of epochs of a training on, relative to the epochs before; of one on all
samples the largest number, and the factor of the learning rate; and share of the time
that is left of one on all but the outer test.
"""
FIRST_OF_OWN = 2
"""Factor of `SHARE_OF_FIRST` for networks without a body if there is an outer test: one
may get all the time later.
"""
CHEAP = 0.05
SHARE_OF_SEARCH = 0.15
"""Largest share of the time that is left for the missing folds of a configuration that
is cheap: a first one gets them although it is behind, one of a fitted method before all
else; and for the early search of fitted methods.
"""
FREE = 0.1
"""Cost of an epoch, relative to ``nft``, up to which all epochs run in a first trial:
features are computed once.
"""
SHARE_OF_WAITING = 0.15
"""Largest share of the time that is left of a first trial that runs before a network
gets all the time.
"""
_SECONDS_OF_LAST = 4.0  # to load and store the model
_STANDS = 1.0
SLACK_OF_LOSS = 0.01
"""Distance of the training loss to its least value, in nats, up to which folds gain
more than training of a network.
"""
_SAFETY = 1.25
_SAFETY_OF_LAST = 1.15
_MOST_EXTRA = 1.0
_UNKNOWN = 5.0
_MOST_RATIO = 4.0
"""Factor of the expected duration of a trial, which must fit into the time that is
left, and of the training on all samples, whose speed is known; largest number of
seconds that a trial is expected to take beside its stages, after a single trial;
expected seconds where nothing is known; and largest factor by which trials of some
methods change the expectation of those of others.
"""
_SLACK = 0.3
_SLACK_OF_VARIANT = 0.05
"""Relative distance to the leader on a single fold up to which a configuration, or one
that was suggested, is not behind. A longer schedule is expected to divide a score by
the factor of its epochs at best.
"""
_LIMIT = 2.0
"""Number of standard errors of the paired difference to the leader from which a
configuration is behind.
"""


class Race:
    """The race of all methods of one task: decides which trial starts next."""

    def __init__(
        self,
        folds: Sequence[int],
        *,
        deadline: float,
        division: int = 0,
        final: Collection[tuple[str, str]] = (),
        sizes: Mapping[int, float] | None = None,
        num_held: float = math.inf,
        outer: bool = False,
        classes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without contenders.

        Args:
            folds: numbers of all folds, in the order in which they run; [0]: the
                prepared validation split.
            deadline: time of ``clock`` at which the last trial should have ended.
            division: number of folds of one division of the data; 0: all of them.
            final: methods and hyper-parameters (all, as canonical JSON) that train on
                all samples, instead of a race.
            sizes: numbers of samples of `ALL` and `ALL_BUT_TEST`, relative to that of
                the training samples of a fold; None: equal.
            outer: whether there is an outer test.
            num_held: number of validation samples of a fold, if scores are shares of
                them; else infinite.
            classes: number of classes; 0: the target is another.
        """
        self.folds = list(folds)
        self._deadline = deadline
        self._division = division or len(folds)
        self._final = set(final)
        self._num_held = num_held
        self._clock = clock
        self._outer = outer
        self._classes = classes
        self._sizes = sizes or {ALL: 1.0, ALL_BUT_TEST: 1.0}
        self._total = deadline - clock()
        self.contenders: list[Contender] = []
        self.estimates: Mapping[tuple[str, str], float] = {}
        """Expected seconds of a trial by task and method."""
        self._urgent: list[tuple[Contender, int]] | None = (
            None  # None: a trial has started or ended
        )
        self._chosen: tuple[Contender, int] | None = None
        self._until = 0.0

    def join(self, plan: SearchPlan, history: History) -> list[Record]:
        """Add the configurations of a method: the first one, and those of earlier runs,
        whose records are returned.
        """
        first = plan.usual_trial.hyperparameters
        joined = list[Record]()
        known = dict[str, Contender]()
        own = [
            each
            for each in history.records.values()
            if (each.task, each.method) == (plan.task, plan.method)
        ]
        for record in sorted(own, key=lambda each: (each.started_at, each.trial_key)):
            given = dict(json.loads(record.hyperparameters))
            fold = int(given.pop(FOLD, 0))
            values = changed(given, first)
            suggested = (
                bool(values.keys() - SCHEDULE)
                and values.keys() - SCHEDULE <= plan.space.keys()
            )
            contender = known.get(canonical_json(values)) or Contender(
                plan, values, suggested
            )
            if (
                record.phase == "confirm"
                and contender.trial(fold).key == record.trial_key
            ):
                known[canonical_json(values)] = contender
                contender.records[fold] = record
                joined.append(record)
        for text in [text for method, text in self._final if method == plan.method]:
            values = changed(json.loads(text), first)
            known.setdefault(canonical_json(values), Contender(plan, values))
        self.contenders += [
            each for each in known.values() if each.records or self._final
        ] or [Contender(plan, {})]
        return joined

    def choose(self) -> tuple[Contender, int] | None:
        """Return the contender whose trial starts next, and its fold; None if no trial
        can start now.

        The choice stands for `_STANDS` seconds, or until a trial starts or ends: each
        method gets the same answer.
        """
        if self._chosen is None or self._clock() >= self._until:
            self._chosen, self._until = self._choice(), self._clock() + _STANDS
        return self._chosen

    def _choice(self) -> tuple[Contender, int] | None:
        left = self._deadline - self._clock()
        last, kept, most = self._last()
        if self._urgent is None:
            self._urgent = list(self._final_trials() if self._final else self._trials())
        for contender, fold in self._urgent:
            own = last is not None and contender.plan is last[0].plan
            if _SAFETY * self.seconds(contender) <= left - (kept if own else most):
                return contender, fold
        if last is None and not any(each.running for each in self.contenders):
            last, *_ = self._last(idle=True)
        return last

    def started(self, contender: Contender, fold: int) -> None:
        """Note that the trial of a contender has started."""
        contender.running.add(fold)
        others = (each for each in self.contenders if each is not contender)
        self.contenders = [
            each
            for each in others
            if each.records or each.running or each.plan is not contender.plan
        ]
        self.contenders.append(contender)
        self._urgent = self._chosen = None

    def ended(self, contender: Contender, fold: int, record: Record) -> None:
        """Note that the trial of a contender has ended."""
        contender.running.discard(fold)
        contender.records[fold] = record
        self._urgent = self._chosen = None

    @property
    def done(self) -> bool:
        """Whether no trial runs and none can start any more."""
        return (
            not any(each.running for each in self.contenders) and self.choose() is None
        )

    def seconds(self, contender: Contender) -> float:
        """Return the expected duration of a trial; 0 if nothing has been measured yet."""
        ended = [
            (each, record)
            for each in self.contenders
            for fold, record in each.records.items()
            if fold >= 0
        ]
        if not ended:
            return 0.0
        # The first trial of a process also imports libraries and reads the data.
        extra = min(record.wall_seconds - _busy(record) for _, record in ended)
        extra = min(extra, _MOST_EXTRA) if len(ended) == 1 else extra
        if contender.records:
            return extra + max(map(_busy, contender.records.values()))
        rates = defaultdict[str, list[float]](list)
        for each, record in ended:
            rates[each.plan.method].append(_busy(record) / each.epochs)
        method = contender.plan.method
        if method in rates:
            return extra + contender.epochs * max(rates[method])
        firsts = {each.plan.method: each.plan for each in self.contenders}
        sort = attrgetter(
            "fitted", "uses_body"
        )  # what methods share whose estimates are wrong by about as much
        alike = [
            name for name in rates if sort(get_method(name)) == sort(get_method(method))
        ]
        # A second is added to both, as a small trial takes what no estimate knows of.
        ratios = [
            (mean(rates[name]) * num_epochs(firsts[name].first) + 1)
            / (self._estimate(firsts[name]) + 1)
            for name in alike
        ]
        ratio = min(max(mean(ratios), 1 / _MOST_RATIO), _MOST_RATIO) if ratios else 1.0
        share = contender.epochs / num_epochs(firsts[method].first)
        return extra + (self._estimate(firsts[method]) * share + 1) * ratio

    def _estimate(self, plan: SearchPlan) -> float:
        return self.estimates.get((plan.task, plan.method), _UNKNOWN)

    def standings(self) -> list[tuple[float, Contender]]:
        """Return the contenders with scores and their `levels`, the best first, without
        those that others replace.
        """
        whole = {ALL, ALL_BUT_TEST}
        scored = [
            each
            for each in self.contenders
            if each.scores.keys() == each.records.keys() - whole != set()
        ]
        scored = [
            each
            for each in scored
            if not any(replaces(other.records, each.records) for other in scored)
        ]
        found = levels([each.scores for each in scored])
        return sorted(zip(found, scored, strict=True), key=lambda pair: pair[0])

    def behind(
        self, contender: Contender, leader: Contender, slack: float = _SLACK
    ) -> bool:
        """Return whether a contender is measurably worse than the leader on their
        common folds.
        """
        common = contender.scores.keys() & leader.scores.keys()
        differences = [contender.scores[fold] - leader.scores[fold] for fold in common]
        if not differences or contender is leader:
            return False
        if len(differences) < 3:
            level = abs(mean(leader.scores[fold] for fold in common))
            worse = max(
                level,
                1 / self._num_held,
                mean(contender.scores[fold] for fold in common),
            )
            noise = _LIMIT * math.sqrt(min(worse, 1.0) / self._num_held / len(common))
            return mean(differences) > slack * max(level, 1 / self._num_held) + noise
        error = stdev(differences) / math.sqrt(len(differences))
        return mean(differences) > _LIMIT * error

    def _cheap(self, contender: Contender) -> bool:
        """Return whether a configuration lacks folds, and they take little of the time
        that is left.
        """
        missing = self._division - len(contender.scores)
        return (
            0
            < missing * self.seconds(contender)
            <= CHEAP * (self._deadline - self._clock())
        )

    def _shortened(self, usual: Contender) -> Contender:
        """Return the first configuration of a method, with fewer epochs if it would
        take much of the time.
        """
        recipe = get_method(usual.plan.method)
        own = FIRST_OF_OWN if self._outer and not recipe.uses_body else 1
        share = (
            own
            * SHARE_OF_FIRST
            * self._total
            / max(self.seconds(usual) or self._estimate(usual.plan), 1e-3)
        )
        if (
            "refine.epochs" not in usual.plan.first
            or share >= 1
            or recipe.relative_cost <= FREE
        ):
            return usual
        return Contender(usual.plan, usual.scheduled(max(2, int(share * usual.epochs))))

    def _last(
        self, *, idle: bool = False
    ) -> tuple[tuple[Contender, int] | None, float, float]:
        """Return the training on of a model with its number in the place of a fold, and
        seconds kept for it.

        The first number of seconds is kept from other trials of the contender's method,
        the second from other methods. None if no model trains on. If ``idle``, no trial
        can start, and no fold is waited for. With an outer test, the training on with
        all but the outer test leaves time for one with all samples, which goes on from
        there.
        """
        left = self._deadline - self._clock()
        chosen, fold = self._to_train_on(left, idle=idle)
        if chosen is None:
            return None, 0.0, 0.0
        before = min(chosen.records)
        share, safety = (
            (SHARE_BUT_TEST, 1.0) if fold == ALL_BUT_TEST else (1.0, _SAFETY_OF_LAST)
        )
        an_epoch = (
            safety
            * self.seconds(chosen)
            / chosen.epochs
            * self._sizes[fold]
            / self._sizes.get(before, 1.0)
        )
        epochs = share * (left - _SECONDS_OF_LAST) / an_epoch
        most = MOST_LAST if fold == ALL else MOST_LONGER
        if epochs < max(1, LEAST_LAST * chosen.epochs):
            return None, 0.0, 0.0
        values = {
            **chosen.scheduled(int(min(epochs, most * chosen.epochs))),
            START: chosen.records[before].trial_key,
        }
        if fold == ALL:
            values[_RATE] = RATE_OF_LAST * float({**chosen.plan.first, **values}[_RATE])
        last = Contender(chosen.plan, values)
        of_others = _SECONDS_OF_LAST + an_epoch * last.epochs / share
        return (
            (last, fold),
            of_others if self._outer else _SECONDS_OF_LAST + an_epoch * chosen.epochs,
            of_others,
        )

    def _to_train_on(self, left: float, *, idle: bool) -> tuple[Contender | None, int]:
        """Return the contender whose model trains on (see `_last`), and with which
        samples: a number for `Contender`.

        The contender is what trained on with all but the outer test, else the leader.
        With an outer test, if the leader is a probe of features, a network without a
        body may take the place of the leader if the time may bring it there: such a
        network has yet to learn its features, and the model may be the mean of both.
        """
        if self._final:
            return None, ALL
        starts = {each.values.get(START) for each in self.contenders}
        trained = (
            each
            for each in self.contenders
            if each.useful and ALL_BUT_TEST in each.records
        )
        if (each := next(trained, None)) is not None:
            return (None if starts & each.keys else each), ALL
        able = (ranked := [each for _, each in self.standings()])[:1]
        if self._outer and not self._one_may_train_on(left):
            able = []
        elif self._outer and able and _is_probe(able[0]):
            own = (
                each for each in ranked if not get_method(each.plan.method).uses_body
            )
            own = (
                each for each in own if not any(other.extends(each) for other in ranked)
            )
            able += [
                each
                for each in own
                if not self.behind(each, ranked[0], _slack(left / self.seconds(each)))
            ]
        chosen = next(
            (each for each in able if self._trains_on(each, 0.0 if idle else left)),
            None,
        )
        return chosen, ALL_BUT_TEST if self._outer else ALL

    def _trains_on(self, contender: Contender, left: float) -> bool:
        """Return whether the model of a contender's first fold trains on; ``left``
        seconds are left for more folds.

        A network does so if it has fewer than `FEW_FOLDS` folds, the mean of whose
        models would be better. With an outer test, its best epoch must have been in the
        second half, and all folds of the usual epochs must not fit, or `FEW_FOLDS` if
        its training loss cannot fall much further; or there are two folds, whose models
        have seen half of the samples. Without, its score must have improved up to the
        end; or it has one fold, there is no time for `FEW_FOLDS`, and its best epoch
        was in the second half.
        """
        recipe = get_method(contender.plan.method)
        count = len(contender.scores)
        if (
            recipe.fitted
            or recipe.aligns
            or _RATE not in contender.plan.first
            or count >= FEW_FOLDS
        ):
            return False
        first = contender.records[min(contender.scores)]
        if contender.running or any(
            each.values.get(START) == first.trial_key for each in self.contenders
        ):
            return False
        all_folds = self._outer and not self._converged(first, contender)
        few = self._division if all_folds else min(FEW_FOLDS, self._division)
        folds = _SAFETY * self.seconds(contender) * max(1, few - count)
        late = 2 * (first.best_epoch or 0) > contender.epochs
        if self._outer:
            usual = max(1.0, num_epochs(contender.plan.first) / contender.epochs)
            two_folds = self._division == 2 and not _is_probe(contender)
            return not contender.suggested and (
                two_folds or (late and usual * folds > left)
            )
        return contender.improves or (
            late and count == 1 < self._division and folds > left
        )

    def _converged(self, record: Record, contender: Contender) -> bool:
        """Return whether the training loss is within `SLACK_OF_LOSS` of the least one
        that smoothed classes allow.

        True where the loss does not say: of a probe of features, without classes, in
            records of earlier versions.
        """
        if record.training_loss is None or not self._classes or _is_probe(contender):
            return True
        other = (
            float(contender.plan.first.get("refine.label_smoothing", 0.0))
            / self._classes
        )
        least = entr(1 - (self._classes - 1) * other) + (self._classes - 1) * entr(
            other
        )
        return bool(record.training_loss < least + SLACK_OF_LOSS)

    def _one_may_train_on(self, left: float) -> bool:
        """Return whether the only training on of a race with an outer test may start
        now.

        It waits for `_first_due`. None starts if a model trains on or has done so, or a
        network has `FEW_FOLDS` folds.
        """
        trained = any(
            START in each.values and (each.running or each.useful)
            for each in self.contenders
        )
        whole = [
            each
            for each in self.contenders
            if len(each.scores) >= FEW_FOLDS and not _is_probe(each)
        ]
        averaged = any(not get_method(each.plan.method).fitted for each in whole)
        return not (trained or averaged or self._first_due(left))

    def _first_due(self, left: float) -> bool:
        """Return whether a first trial runs, or waits that takes a small share of the
        ``left`` seconds.

        That of a body counts only if its features are computed once.
        """
        firsts = [each for each in self.contenders if not each.records]
        known = [
            each
            for each in firsts
            if not get_method(each.plan.method).uses_body or _is_probe(each)
        ]
        small = (
            _SAFETY * self.seconds(self._shortened(each)) <= SHARE_OF_WAITING * left
            for each in known
        )
        return any(each.running for each in firsts) or any(small)

    def _final_trials(self) -> Iterator[tuple[Contender, int]]:
        for each in self.contenders:
            chosen = (
                each.plan.method,
                canonical_json(dict(each.trial(0).hyperparameters)),
            ) in self._final
            if chosen and each.lacks(ALL):
                yield each, ALL

    def _trials(self) -> Iterator[tuple[Contender, int]]:
        """Yield possible trials, the most urgent first."""
        new = [
            self._shortened(each)
            for each in self.contenders
            if not each.records and not each.running
        ]
        known = [
            each
            for each in self.contenders
            if each.records and START not in each.values
        ]
        adapted = [each for each in known if get_method(each.plan.method).uses_body]
        firsts = {
            each.plan.method: _busy(next(iter(each.records.values())))
            for each in reversed(adapted)
        }
        left = SHARE_OF_FIRSTS * self._total - sum(firsts.values())
        late = list[Contender]()
        for each in new:
            adapts = get_method(each.plan.method).uses_body
            left -= self.seconds(each) if adapts else 0.0
            tells = each.epochs >= LEAST_FIRST * num_epochs(each.plan.first)
            if not adapts or (left >= 0 and tells):
                yield each, self.folds[0]
            else:
                late.append(each)
        origins = (
            {each.values.get(START) for each in self.contenders}
            if self._outer
            else set()
        )
        standings = [
            pair for pair in self.standings() if origins.isdisjoint(pair[1].keys)
        ]
        if not standings:
            yield from ((each, self.folds[0]) for each in late)
            return
        leader = standings[0][1]
        cheap = [
            each for _, each in standings if self._cheap(each) and not each.variant
        ]
        slacks = (
            (each, _SLACK_OF_VARIANT if each.variant else _SLACK)
            for _, each in standings
        )
        alive = [
            each
            for each, slack in slacks
            if each in cheap or not self.behind(each, leader, slack)
        ]
        alive = [
            each for each in alive if not any(other.extends(each) for other in alive)
        ]
        rows = [
            self.folds[start : start + self._division]
            for start in range(0, len(self.folds), self._division)
        ]
        missing = [
            [(each, fold) for each in alive for fold in row if each.lacks(fold)]
            for row in rows
        ]
        fitted = [each for each in alive if get_method(each.plan.method).fitted]
        yield from (
            pair for pair in missing[0] if pair[0] in fitted and self._cheap(pair[0])
        )  # the leader may change
        searched = [
            each
            for each in known
            if each.suggested and get_method(each.plan.method).fitted
        ]
        spent = sum(
            _busy(record) for each in searched for record in each.records.values()
        )
        spare = SHARE_OF_SEARCH * (self._deadline - self._clock()) - spent
        longer = list(self._longer(standings, leader))
        yield from (
            pair
            for pair in longer
            if get_method(pair[0].plan.method).fitted and self.seconds(pair[0]) < spare
        )
        able = [each for each in fitted if len(each.scores) >= self._division]
        able = [each for each in able if self.seconds(each) * self._division < spare]
        yield from self._suggested(able, EARLY_VARIANTS)
        yield from longer
        for number, pairs in enumerate(missing):
            yield from pairs
            yield from ((each, self.folds[0]) for each in late)
            yield from self._suggested(
                alive, FIRST_VARIANTS if number + 1 < len(missing) else MOST_VARIANTS
            )
        # A fold may mislead.
        yield from (
            (each, k)
            for _, each in standings
            if not each.variant
            for k in self.folds
            if each.lacks(k)
        )

    def _longer(
        self, standings: Sequence[tuple[float, Contender]], leader: Contender
    ) -> Iterator[tuple[Contender, int]]:
        """Yield contenders with more epochs, of those that still improved in their last
        epochs.

        Contenders other than the leader leave time for as many of the few folds of the
        leader, whose models are averaged, as fit.
        """
        left = self._deadline - self._clock()
        a_fold = _SAFETY * max(self.seconds(leader), 1e-3)
        few = (
            0
            if get_method(leader.plan.method).fitted
            else min(FEW_FOLDS, self._division) - len(leader.scores)
        )
        for_folds = a_fold * min(max(0, few), max(0, left) // a_fold)
        _, kept, most = self._last()
        for _, each in standings:
            time_left = left if each is leader else left - for_folds
            spare = left - (kept if each.plan is leader.plan else most)
            short = each is not leader and each.epochs < num_epochs(
                each.plan.first
            )  # and may lead when it is not
            many = (
                self._outer and self._division >= FEW_FOLDS and not short
            )  # folds follow, if it does not train on
            share = 1 / FEW_FOLDS if many else SHARE_OF_LONGER
            factor = min(
                MOST_LONGER,
                min(share * time_left, spare)
                / (_SAFETY * max(self.seconds(each), 1e-3)),
            )
            faulty = any(
                each.scores.values()
            )  # without an error, none can be seen to vanish
            extended = _is_probe(each) and any(
                each.extends(other) for other in self.contenders
            )
            slack = (
                _SLACK if extended else _slack(factor)
            )  # more epochs do not change the features of a probe
            hopeful = faulty and each.improves and not self.behind(each, leader, slack)
            if (
                hopeful
                and factor >= LEAST_LONGER
                and not any(other.extends(each) for other in self.contenders)
            ):
                yield (
                    Contender(
                        each.plan,
                        each.scheduled(int(factor * each.epochs)),
                        each.suggested,
                    ),
                    self.folds[0],
                )

    def _suggested(
        self, alive: Sequence[Contender], most: int
    ) -> Iterator[tuple[Contender, int]]:
        """Yield contenders with values that Optuna suggests, first of the methods with
        few of them and a good score.
        """
        best: dict[str, Contender] = {}
        for each in alive:
            best.setdefault(each.plan.method, each)
        searched = [each for each in self.contenders if each.records.keys() != {ALL}]
        tried = Counter(each.plan.method for each in searched if each.suggested)
        for _, method in sorted(
            enumerate(best, start=1), key=lambda pair: (tried[pair[1]] + 1) * pair[0]
        ):
            plan = best[method].plan
            if plan.space and tried[method] < most:
                own = [each for each in searched if each.plan is plan]
                known = [
                    (each.values, next(iter(each.scores.values()), None))
                    for each in own
                ]
                for _ in range(_MOST_REPEATED):
                    suggested = {
                        **plan.first,
                        **best[method].values,
                        **suggest(plan.first, plan.space, known),
                    }
                    values = changed(suggested, plan.first)
                    if (
                        equal := next(
                            (each for each in own if each.values == values), None
                        )
                    ) is None:
                        yield Contender(plan, values, suggested=True), self.folds[0]
                        break
                    known.append(
                        (values, next(iter(equal.scores.values()), None))
                    )  # a choice of few repeats itself


def _slack(factor: float) -> float:
    """Return the slack of a configuration whose epochs may be multiplied: its score is
    divided by that at best.
    """
    return (1 + _SLACK) * min(factor, MOST_LONGER) - 1


def _is_probe(contender: Contender) -> bool:
    """Return whether epochs cost next to nothing, as those of a head on features that
    are computed once.
    """
    recipe = get_method(contender.plan.method)
    return recipe.uses_body and not recipe.fitted and recipe.relative_cost <= FREE


def _busy(record: Record) -> float:
    return record.align_seconds + record.refine_seconds + record.evaluate_seconds
