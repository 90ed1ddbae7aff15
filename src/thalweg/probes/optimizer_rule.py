"""How an optimiser of torch makes an update of a gradient, as far as a run says which it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["PLAIN", "OptimizerRule", "optimizer_rule"]

Family = Literal["sgd", "adam", "other"]


@dataclass(frozen=True)
class OptimizerRule:
    """The update rule of an optimiser; all parameter groups share it, but for rate and decay.

    Attributes:
        family: `"sgd"`, `"adam"`, or `"other"` where the rule is not known here.
        name: What the optimiser is called.
        momentum: μ of SGD.
        dampening: τ of SGD: the buffer takes (1 − τ) of each gradient.
        nesterov: Whether SGD looks ahead.
        betas: β₁ and β₂ of Adam.
        eps: What Adam adds to the root of the second moment.
        amsgrad: Whether Adam keeps the largest second moment.
        decoupled: Whether weight decay is taken off θ beside the gradient step (AdamW).
        rates: Learning rate of each parameter group, as the run began.
        decays: Weight decay of each parameter group.
    """

    family: Family
    name: str
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    decoupled: bool = False
    rates: tuple[float, ...] = (float("nan"),)
    decays: tuple[float, ...] = (0.0,)

    @property
    def stability_limit(self) -> float:
        """The ε λ_max up to which it converges on a quadratic cost, with all gradients exact.

        On a cost ½ λ θ² update and memory are a linear recursion of two numbers, whose matrix has
        determinant d and trace t; it is stable where d < 1 and −t < 1 + d. For Adam λ is that of
        D^½ H D^½ with its preconditioner D, taken as constant.
        """
        if self.family == "adam":  # heavy ball with (1 − β₁) of each gradient
            return 2 * (1 + self.betas[0]) / (1 - self.betas[0])
        if self.family != "sgd":
            return float("nan")
        if self.nesterov:
            return 2 * (1 + self.momentum) / (1 + 2 * self.momentum)
        # Without momentum torch makes no buffer, and dampening does nothing.
        share = 1 - self.dampening if self.momentum else 1.0
        return 2 * (1 + self.momentum) / share if share > 0 else float("inf")

    @property
    def words(self) -> str:
        """The rule in words."""
        if self.family == "sgd":
            kind = "Nesterov momentum" if self.nesterov else "momentum"
            words = f"SGD with {kind} {self.momentum:g}" if self.momentum else "SGD"
            words += f", dampening {self.dampening:g}" if self.momentum and self.dampening else ""
        elif self.family == "adam":
            words = f"{self.name} with β₁ {self.betas[0]:g} and β₂ {self.betas[1]:g}"
            words += ", AMSGrad" if self.amsgrad else ""
        else:
            return self.name
        decays = sorted(set(self.decays))
        decay = " or ".join(f"{value:g}" for value in decays)
        return f"{words}, weight decay {decay}" if any(decays) else words


# What is supposed of a run that does not name its optimiser, and follows its gradient.
PLAIN = OptimizerRule("sgd", "SGD")

# What parameter groups may differ in.
_OWN = ("lr", "initial_lr", "weight_decay")


def optimizer_rule(facts: Mapping[str, Any]) -> OptimizerRule | None:
    """Return the rule of the optimiser that the facts of a run name; None where they name none.

    Args:
        facts: As a recorder keeps them: `facts["optimizer"]` is a table of name and groups.
    """
    stated = facts.get("optimizer")
    if not isinstance(stated, Mapping) or not stated.get("groups"):
        return None
    name, groups = str(stated.get("name", "unknown")), list(stated["groups"])
    rates = tuple(float(group.get("lr", "nan")) for group in groups)
    decays = tuple(float(group.get("weight_decay", 0.0)) for group in groups)
    first = groups[0]
    if not _alike(groups) or first.get("maximize"):
        return OptimizerRule("other", name, rates=rates, decays=decays)
    if name == "SGD":
        return OptimizerRule(
            "sgd",
            name,
            momentum=float(first.get("momentum", 0.0)),
            dampening=float(first.get("dampening", 0.0)),
            nesterov=bool(first.get("nesterov", False)),
            rates=rates,
            decays=decays,
        )
    if name in ("Adam", "AdamW"):
        low, high = first.get("betas", (0.9, 0.999))
        return OptimizerRule(
            "adam",
            name,
            betas=(float(low), float(high)),
            eps=float(first.get("eps", 1e-8)),
            amsgrad=bool(first.get("amsgrad", False)),
            decoupled=name == "AdamW" or bool(first.get("decoupled_weight_decay", False)),
            rates=rates,
            decays=decays,
        )
    return OptimizerRule("other", name, rates=rates, decays=decays)


def _alike(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether all groups have one rule, but for learning rate and weight decay."""
    rules = [{k: v for k, v in group.items() if k not in _OWN} for group in groups]
    return all(rule == rules[0] for rule in rules)
