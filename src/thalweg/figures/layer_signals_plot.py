"""The plot of layer signals: gradients over depth, and units that let nothing pass."""

import numpy as np

from thalweg.figures.captions import (
    computed_words,
    data_words,
    joined,
    model_words,
    policy_words,
)
from thalweg.figures.elements import shown
from thalweg.figures.figure import Axis, Band, Curve, Figure, Marker, Panel
from thalweg.results import Array, LayerSignals

__all__ = ["layer_signals_figure"]

_HALF = 0.16  # width of half a bar, in layers
_ASIDE = 0.18  # where the two bars of a layer are, off its middle
_HEIGHT = 0.7
_MOST_NAMED = 12  # layers that have room for their names


def layer_signals_figure(signals: LayerSignals) -> Figure:
    """Return the figure of layer signals: gradient RMS, that of activations, and bars of units."""
    count = len(signals.layers)
    depth = Axis("depth in activation layers (0 = input)", limits=(-0.5, max(count, 1) + 0.5))
    tensors = Panel(
        x=depth,
        y=Axis("RMS of ∂J/∂θ", log=True),
        height=_HEIGHT,
        curves=(
            Curve(
                _spread(signals.depth),
                shown(signals.gradient_rms, log=True),
                "tensors",
                dots=True,
                joined=False,
            ),
        ),
    )
    rows = [(tensors,)]
    if count:
        at = np.arange(1.0, count + 1)
        hidden = Panel(
            x=depth,
            y=Axis("RMS of ∂J/∂h (last = 1)", log=True),
            curves=(Curve(at, shown(signals.relative, log=True), "activations", dots=True),),
            height=_HEIGHT,
        )
        rows += [(hidden,), (_bars(signals, at, depth),)]
    hidden_zero = int((signals.gradient_rms == 0).sum())
    return Figure(
        title="Gradients and units over depth",
        caption=joined(
            data_words(signals.provenance, {"train": signals.gradient_norm}),
            model_words(signals.provenance),
            policy_words(signals.provenance),
            _attenuation_words(signals),
            f"{signals.zero_share:.1%} of the parameters have a gradient of exactly 0"
            f"{computed_words(signals.provenance)}.",
            f"{hidden_zero} of {len(signals.tensors)} tensors are all of that kind: gaps."
            if hidden_zero
            else "",
            f"Not seen: what is inside {', '.join(signals.unseen)}." if signals.unseen else "",
        ),
        rows=tuple(rows),
        alt=_alt(signals),
    )


def _spread(depth: Array) -> Array:
    """Return where tensors are drawn: those of one depth side by side."""
    places = np.array(depth)
    for value in np.unique(depth[np.isfinite(depth)]):
        same = np.flatnonzero(depth == value)
        places[same] += np.linspace(-0.5, 0.5, len(same) + 2)[1:-1] * 0.5
    return places


def _bars(signals: LayerSignals, at: Array, depth: Axis) -> Panel:
    """Return the panel of dead and saturated shares, a bar for each layer."""
    curves, bands = [], []
    shares = {"dead": signals.dead_share, "saturated": signals.saturated_share}
    for rank, (label, all_shares) in enumerate(shares.items()):
        share = shown(all_shares, log=True)  # no bar where there is nothing
        middle = at + (2 * rank - 1) * _ASIDE
        edges = np.stack([middle - _HALF, middle - _HALF, middle + _HALF, middle + _HALF], axis=1)
        heights = 100 * np.stack([0 * share, share, share, 0 * share], axis=1)
        x, y = _apart(edges), _apart(heights)
        curves.append(Curve(x, y, label, rank))
        x, top = _apart(edges[:, 1:3]), _apart(heights[:, 1:3])
        bands.append(Band(x, 0 * top, top, label, rank))
    # Names where each layer is, at the height of its larger bar.
    tops = 100 * np.fmax(shares["dead"], shares["saturated"])
    names = zip(signals.layers, at, tops, strict=True) if len(at) <= _MOST_NAMED else ()
    return Panel(
        x=depth,
        y=Axis("units (%)", limits=(0.0, 112.0)),
        curves=tuple(curves),
        bands=tuple(bands),
        height=_HEIGHT,
        markers=tuple(Marker(name, float(x), float(y)) for name, x, y in names if np.isfinite(y)),
    )


def _apart(rows: Array) -> Array:
    """Return rows one after the other, with gaps between them."""
    gaps = np.full((len(rows), 1), np.nan)
    flat: Array = np.concatenate([rows, gaps], axis=1).reshape(-1)
    return flat


def _attenuation_words(signals: LayerSignals) -> str:
    """Say what the way back does to the gradient."""
    found = signals.attenuation
    if not np.isfinite(found.factor):
        return ""
    error = f" ± {found.error:.2g}" if np.isfinite(found.error) else ""
    return (
        f"From the last of {found.layers} hidden activations to the first the norm of the "
        f"gradient is multiplied by {found.total:.3g}, {found.factor:.3g}{error} for each layer."
    )


def _alt(signals: LayerSignals) -> str:
    """Return the panels in words."""
    words = [f"RMS of the gradient for {len(signals.tensors)} tensors over depth."]
    for name, units, dead, saturated in zip(
        signals.layers, signals.units, signals.dead, signals.saturated, strict=True
    ):
        if dead or saturated:
            words.append(f"{name}: {dead:.0f} of {units:.0f} dead, {saturated:.0f} saturated.")
    return " ".join(words)
