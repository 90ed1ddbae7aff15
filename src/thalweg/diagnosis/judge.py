"""From readings to verdicts. Pure arithmetic: nothing here evaluates anything."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from thalweg.diagnosis import thresholds as at
from thalweg.diagnosis.advice import ADVICE, WOULD_CHANGE
from thalweg.diagnosis.losses import Losses, losses_of
from thalweg.diagnosis.readings import Network, Readings
from thalweg.diagnosis.rivals import rivals_of
from thalweg.results import OBSTACLES, Evidence, Finding

__all__ = ["judged"]

# A cause stands before its symptoms: where the first is present, the others follow from it.
_SYMPTOMS = {
    "exploding_gradient": ("step_too_large", "gradient_noise", "ill_conditioning", "dead_units"),
    "dead_units": (
        *("plateau", "vanishing_gradient", "local_minimum", "saddle_point", "step_too_small"),
        *("ill_conditioning", "gradient_noise"),
    ),
    "vanishing_gradient": (
        *("plateau", "saddle_point", "step_too_small", "ill_conditioning", "local_minimum"),
        "gradient_noise",
    ),
    "no_critical_point": ("step_too_small", "ill_conditioning", "plateau", "saddle_point"),
    "step_too_large": ("gradient_noise", "ill_conditioning", "detour", "local_minimum"),
    "step_too_small": ("plateau", "saddle_point", "ill_conditioning"),
    "ill_conditioning": ("detour",),
    "plateau": ("saddle_point",),
    "saddle_point": ("plateau", "detour", "ill_conditioning"),
    "barrier": ("local_minimum",),
}
_RIVALS = ("step_too_small", "no_critical_point")
# What a step that is too large brings about: units that die on the way, and were alive at first.
_BROUGHT_ABOUT = ("dead_units", "vanishing_gradient")


def judged(readings: Readings) -> dict[str, Finding]:
    """Return a finding for every obstacle."""
    losses = [losses_of(stretch, readings) for stretch in readings.stretches]
    judge = _Judge(readings, losses)
    found = {key: judge.finding(key) for key in OBSTACLES}
    if found["step_too_large"].verdict == "present" or judge.started_unstable:
        for symptom in _BROUGHT_ABOUT:
            if found[symptom].verdict == "present" and not judge.since_the_start(symptom):
                found[symptom] = replace(found[symptom], symptom_of="step_too_large")
                share = max(found[symptom].severity, judge.share("too_large")[0])
                found["step_too_large"] = replace(
                    found["step_too_large"],
                    verdict="present",
                    severity=share,
                    cost=share * readings.possible,
                    advice=ADVICE["step_too_large"],
                )
    for cause, symptoms in _SYMPTOMS.items():
        if found[cause].verdict != "present" or found[cause].symptom_of:
            continue
        for symptom in symptoms:
            # A small step, or none to arrive at, explains a place only where it costs more.
            weaker = found[cause].severity < found[symptom].severity and cause in _RIVALS
            if weaker or found[symptom].verdict != "present" or found[symptom].symptom_of:
                continue
            found[symptom] = replace(found[symptom], symptom_of=cause)
    return {
        key: replace(each, rivals=rivals_of(key, found)) if each.verdict == "present" else each
        for key, each in found.items()
    }


def _or(value: float, other: float) -> float:
    """Return a value, or another where it is NaN."""
    return other if math.isnan(value) else value


def _over_depth(network: Network, how: str) -> str:
    """Say how the back-propagated gradient changes over the depth of a network."""
    if math.isnan(network.attenuation):
        return "with one hidden activation, or none, no gradient can change over depth"
    return f"the gradient {how} {network.attenuation:.2g} over {network.depth} activations"


@dataclass(frozen=True)
class _Opinion:
    """A verdict before its words."""

    verdict: str
    share: float = 0.0
    evidence: tuple[Evidence, ...] = ()


class _Judge:
    """One method an obstacle."""

    def __init__(self, readings: Readings, losses: list[Losses]) -> None:
        self.readings, self.losses = readings, losses
        self.total = sum(each.stretch.length for each in losses)

    def finding(self, key: str) -> Finding:
        """Return the finding of one obstacle."""
        opinion: _Opinion = getattr(self, f"_{key}")()
        undetermined = opinion.verdict == "undetermined"
        share = math.nan if undetermined else min(max(opinion.share, 0.0), 1.0)
        possible = max(self.readings.possible, 0.0)
        return Finding(
            obstacle=key,
            verdict=opinion.verdict,
            severity=share,
            cost=share * possible,
            evidence=opinion.evidence,
            would_change=WOULD_CHANGE[key],
            advice=ADVICE[key] if opinion.verdict == "present" else "",
        )

    @property
    def started_unstable(self) -> bool:
        """Whether the first steps were past the limit of stability."""
        if not self.losses:
            return False
        first = self.losses[0].stretch
        return first.product > at.UNSTABLE * first.limit

    def since_the_start(self, key: str) -> bool:
        """Tell whether the network began with dead units, or with vanishing gradients."""
        first = self.readings.networks[0]
        if key == "dead_units":
            return first.dead >= at.DEAD
        return first.attenuation < at.ATTENUATED

    # What is charged by stretches.

    def share(self, part: str) -> tuple[float, Losses | None]:
        """Return the share of the possible progress that a cause took, and the worst stretch."""
        if self.total <= 0 or not self.readings.possible > 0:
            return 0.0, None
        lost = sum(getattr(each, part) * each.stretch.length for each in self.losses) / self.total
        worst = max(self.losses, key=lambda each: getattr(each, part))
        return lost / self.readings.possible, worst

    def _charged(self, part: str, words: Callable[[Losses], Evidence]) -> _Opinion:
        """Return the opinion on a cause that stretches are charged with."""
        if not self.losses:
            return _Opinion("undetermined", evidence=(self._too_short(),))
        if not self.readings.following.real:
            return _Opinion("undetermined", evidence=(self._not_following(),))
        share, worst = self.share(part)
        if worst is None:
            return _Opinion("absent", evidence=(Evidence("no progress was possible"),))
        lost = Evidence(
            f"takes {share:.1%} of the possible progress", share, at.PRESENT, worst.stretch.first
        )
        present = share >= at.PRESENT
        return _Opinion("present" if present else "absent", share, (lost, words(worst)))

    def _too_short(self) -> Evidence:
        """Say that there is no stretch to look at."""
        count = len(self.readings.costs.index)
        return Evidence(f"{count} snapshots make no stretch of a run to look at", count)

    def _not_following(self) -> Evidence:
        """Say why nothing follows from the steps."""
        following = self.readings.following
        if not following.known:
            return Evidence("no update is known: consecutive points, or recorded updates, are")
        if following.shuffled:
            return Evidence(
                f"the order of the snapshots is no better than a random one "
                f"(p = {following.ordered:.2f})",
                following.ordered,
                at.ORDERED,
            )
        return Evidence(
            f"the updates do not follow the gradient of this cost: {following.pull:.2g} ± "
            f"{following.error:.2g} times of it",
            following.pull,
            following.error,
        )

    def _gradient_noise(self) -> _Opinion:
        def words(worst: Losses) -> Evidence:
            ratio, step = worst.stretch.noise, worst.stretch.first
            if not math.isfinite(ratio):
                return Evidence("the noise of the updates is not known", step=step)
            return Evidence(
                f"noise takes {ratio:.0%} of what the gradient gains in a step",
                ratio,
                at.NOISY,
                step,
            )

        found = self._charged("noise", words)
        unknown = all(not math.isfinite(each.stretch.noise) for each in self.losses)
        if found.verdict == "absent" and unknown and not self.readings.following.exact:
            return replace(found, verdict="undetermined")
        return found

    def _step_too_large(self) -> _Opinion:
        def words(worst: Losses) -> Evidence:
            product, limit = worst.stretch.product, worst.stretch.limit
            text = f"ε·λ_max = {product:.3g}, limit {limit:.3g}"
            ways = worst.stretch.alternatives
            if product <= limit and ways.same > ways.start.loss:
                text += (
                    f", but such steps without noise take J from {ways.start.loss:.4g} to "
                    f"{ways.same:.4g}"
                )
            return Evidence(text, product, limit, worst.stretch.first)

        found = self._charged("too_large", words)
        if found.verdict == "undetermined":
            return found
        if self.readings.diverged and found.verdict != "present":
            return replace(found, verdict="undetermined")
        return found

    def _step_too_small(self) -> _Opinion:
        def words(worst: Losses) -> Evidence:
            ways = worst.stretch.alternatives
            if not worst.stretch.rate > 0:  # as at the first step of a warm-up
                return Evidence("the step has no length", step=worst.stretch.first)
            ratio = ways.safe_rate / worst.stretch.rate
            return Evidence(
                f"a step {ratio:.3g} times as large is safe",
                ratio,
                at.FAR_TOO_SMALL,
                worst.stretch.first,
            )

        return self._charged("too_small", words)

    def _ill_conditioning(self) -> _Opinion:
        return self._charged("conditioning", self._newton_words)

    def _saddle_point(self) -> _Opinion:
        return self._charged("saddle", self._newton_words)

    def _newton_words(self, worst: Losses) -> Evidence:
        """Say what Newton's steps gained where."""
        ways = worst.stretch.alternatives
        return Evidence(
            f"curvature: {ways.start.smallest:.3g} to {ways.start.largest:.3g}; Newton's steps "
            f"reach J = {ways.newton:.4g} where the run reached {worst.stretch.level:.4g} "
            f"({ways.by_negative:.3g} along negative curvature)",
            ways.newton,
            worst.stretch.level,
            worst.stretch.first,
        )

    def _plateau(self) -> _Opinion:
        def words(worst: Losses) -> Evidence:
            ways = worst.stretch.alternatives
            left = max(ways.start.loss - self.readings.floor.value, 1e-300)
            share = ways.start.reach_of(ways.way) / left
            return Evidence(
                f"slope and curvature promise {share:.1g} of what is left",
                share,
                at.AT_REST,
                worst.stretch.first,
            )

        return self._charged("plateau", words)

    # What is left at the end.

    def _local_minimum(self) -> _Opinion:
        readings = self.readings
        if not readings.ends_finite:
            return _Opinion("undetermined", evidence=(Evidence("the run diverged"),))
        ways = self.losses[-1].stretch.alternatives if self.losses else None
        if ways is None or ways.end is None:
            return _Opinion("undetermined", evidence=(self._too_short(),))
        if not readings.following.real:
            return _Opinion("undetermined", evidence=(self._not_following(),))
        end, floor = ways.end, readings.floor
        left = end.loss - floor.value
        share = left / readings.possible if readings.possible > 0 else 0.0
        if share < at.PRESENT:
            return _Opinion("absent", evidence=(self._left(share),))
        rest = end.promised / left
        if rest > at.AT_REST:
            text = f"not at rest: curvature promises {rest:.0%} of what is left"
            return _Opinion("absent", evidence=(Evidence(text, rest, at.AT_REST),))
        if end.negative:
            text = f"the smallest eigenvalue, {end.smallest:.3g}, is negative"
            return _Opinion("absent", evidence=(Evidence(text, end.smallest, 0.0),))
        flat = end.reach_of(ways.way) / left
        if flat <= at.AT_REST:
            text = f"no minimum: slope and curvature promise {flat:.1g} of what is left"
            return _Opinion("absent", evidence=(Evidence(text, flat, at.AT_REST),))
        evidence = (
            self._left(share),
            Evidence(f"gradient norm {end.gradient_norm:.2g}: at rest", end.gradient_norm),
            Evidence(f"smallest eigenvalue {end.smallest:.3g}", end.smallest, 0.0),
        )
        if not floor.known:
            return _Opinion("undetermined", evidence=evidence)
        return _Opinion("present", share, evidence)

    def _left(self, share: float) -> Evidence:
        """Say how much of the possible progress is left at the end."""
        return Evidence(
            f"{share:.1%} of the possible progress is left above {self.readings.floor.source}",
            share,
            at.PRESENT,
        )

    def _barrier(self) -> _Opinion:
        readings = self.readings
        if readings.to_reference is None:
            verdict = "absent" if readings.left < at.PRESENT else "undetermined"
            return _Opinion(verdict, evidence=(Evidence("no better point was given"),))
        gap = readings.costs.last - readings.reference
        share = gap / readings.possible if readings.possible > 0 else 0.0
        if not share >= at.PRESENT:
            text = "the reference is no better than the last point"
            return _Opinion("absent", evidence=(Evidence(text, share, at.PRESENT),))
        climb = readings.to_reference / gap
        evidence = (
            Evidence(
                f"J climbs by {readings.to_reference:.3g} on the line to the reference, "
                f"{climb:.0%} of what there is to gain",
                climb,
                at.CLIMBS,
            ),
        )
        if climb < at.CLIMBS:
            return _Opinion("absent", evidence=evidence)
        return _Opinion("present", share, evidence)

    def _detour(self) -> _Opinion:
        readings, path = self.readings, self.readings.path
        if path is None:
            return _Opinion("undetermined", evidence=(self._too_short(),))
        if not readings.following.real:
            return _Opinion("undetermined", evidence=(self._not_following(),))
        evidence = (
            Evidence(f"the path is {path.ratio:.2f} times the chord", path.ratio, at.LONG_WAY),
            Evidence(
                f"−g has a cosine below {at.ALIGNED:g} with the way on {path.misaligned:.0%} of it",
                path.misaligned,
            ),
            Evidence(f"J climbs by {path.climb:.2g} of its fall on the straight line", path.climb),
        )
        long = path.ratio >= at.LONG_WAY and path.coarse_ratio >= at.SMOOTH * path.ratio
        arrived = readings.costs.start - readings.costs.last >= at.SLOW * readings.possible
        if not (long and arrived and path.climb >= at.CLIMBS) or readings.possible <= 0:
            return _Opinion("absent", evidence=evidence)
        spent = self._time_above()
        share = spent * (1 - 1 / path.ratio)
        return _Opinion("present" if share >= at.PRESENT else "absent", share, evidence)

    def _time_above(self, since: float = -math.inf) -> float:
        """Return the mean over the run of the share of the possible progress still to make."""
        costs, floor, possible = self.readings.costs, self.readings.floor.value, self.readings
        steps = costs.step[costs.step >= since]
        losses = costs.loss[costs.step >= since]
        left = [min(max((v - floor) / possible.possible, 0.0), 1.0) for v in losses]
        if len(left) < 2 or steps[-1] <= steps[0]:
            return float(left[-1])
        widths = [b - a for a, b in pairwise(steps)]
        middle = [(a + b) / 2 for a, b in pairwise(left)]
        total = sum(w * m for w, m in zip(widths, middle, strict=True))
        return float(total / (steps[-1] - steps[0]))

    def _no_critical_point(self) -> _Opinion:
        readings = self.readings
        if not readings.ends_finite:
            return _Opinion("undetermined", evidence=(Evidence("the run diverged"),))
        if not readings.following.real:
            return _Opinion("undetermined", evidence=(self._not_following(),))
        falls = math.isfinite(readings.ray) and readings.ray < at.FADES
        grows = readings.growth >= at.LASTING
        evidence = (
            Evidence(
                f"with the parameters scaled up 64 times {readings.ray:.2g} of the cost is left"
                if math.isfinite(readings.ray)
                else "J rises again as the parameters are scaled up",
                readings.ray,
                at.FADES,
            ),
            Evidence(
                f"their norm grew by {readings.growth:.1%} over the second half",
                readings.growth,
                at.LASTING,
            ),
        )
        if not (falls and grows and self._still_falls()):
            return _Opinion("absent", evidence=evidence)
        # What is lost while a run is on its way there at all, and not what it had to come down.
        spent = self._time_above(readings.costs.step[0] + readings.costs.steps / 2)
        return _Opinion(
            "present" if spent >= at.UNENDING else "absent", max(readings.left, spent), evidence
        )

    def _still_falls(self) -> bool:
        """Tell whether J fell in the second half by a share of what is left above the floor."""
        costs = self.readings.costs
        middle = float(costs.loss[len(costs.loss) // 2])
        return middle - costs.last >= at.FALLS * (costs.last - self.readings.floor.value)

    # Networks.

    def _of_layers(
        self,
        is_bad: Callable[[Network], bool],
        badness: Callable[[Network], float],
        words: Callable[[Network], tuple[str, float, float]],
    ) -> _Opinion:
        """Return the opinion on what layers of a network can have: bad where the run is stuck.

        Args:
            is_bad: Tells whether a snapshot has it.
            badness: What is largest at the worst snapshot.
            words: Reading in words, value and threshold of that.
        """
        readings = self.readings
        if not readings.networks:
            return _Opinion("absent", evidence=(Evidence("a closed form has no layers"),))
        shares = [self._left_at(each) if is_bad(each) else 0.0 for each in readings.networks]
        share = sum(shares) / len(shares)
        # NaN where no gradient arrives at all, as with output weights of 0.
        worst = max(readings.networks, key=lambda each: _or(badness(each), -math.inf))
        evidence = (Evidence(*words(worst), worst.step),)
        present = share >= at.PRESENT and not readings.left < at.STUCK
        return _Opinion("present" if present else "absent", share, evidence)

    def _left_at(self, network: Network) -> float:
        """Return the share of the possible progress still to make at a snapshot, 0 to 1."""
        readings = self.readings
        if not readings.possible > 0:
            return 0.0
        nearest = abs(readings.costs.step - network.step).argmin()
        left = (readings.costs.loss[nearest] - readings.floor.value) / readings.possible
        return min(max(float(left), 0.0), 1.0)

    def _vanishing_gradient(self) -> _Opinion:
        return self._of_layers(
            lambda each: each.attenuation < at.ATTENUATED,
            lambda each: -each.attenuation,
            lambda each: (_over_depth(each, "shrinks to"), each.attenuation, at.ATTENUATED),
        )

    def _exploding_gradient(self) -> _Opinion:
        return self._of_layers(
            lambda each: each.attenuation > 1 / at.ATTENUATED,
            lambda each: each.attenuation,
            lambda each: (_over_depth(each, "grows by"), each.attenuation, 1 / at.ATTENUATED),
        )

    def _dead_units(self) -> _Opinion:
        return self._of_layers(
            lambda each: each.dead >= at.DEAD,
            lambda each: each.dead,
            lambda each: (
                f"{each.dead:.0%} of the units of {each.layer} do nothing for any example",
                each.dead,
                at.DEAD,
            ),
        )

    def _overfitting(self) -> _Opinion:
        held_out = self.readings.costs.held_out.tolist()
        if not held_out:
            return _Opinion("undetermined", evidence=(Evidence("there is no held-out split"),))
        best = min(range(len(held_out)), key=lambda i: held_out[i])
        fall = held_out[0] - held_out[best]
        # Where it stays up: noise takes it up and down again.
        rise = min(held_out[-max(1, len(held_out) // 4) :]) - held_out[best]
        train = self.readings.costs.loss
        falls = train[-1] < train[best]
        step = int(self.readings.costs.step[best])
        whole, words = (fall, "its fall") if fall > 0 else (self.readings.possible, "what J fell")
        share = rise / whole if whole > 0 else 0.0
        evidence = (
            Evidence(
                f"held-out J stays up by {share:.0%} of {words} after step {step}",
                share,
                at.RISES,
                step,
            ),
        )
        telling = rise >= at.PRESENT * self.readings.possible
        present = share >= at.RISES and telling and falls
        return _Opinion("present" if present else "absent", min(share, 1.0), evidence)
