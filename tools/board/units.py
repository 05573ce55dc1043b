"""Numbers as a reader wants them, by the names that Grafana has for units."""

from math import floor, isfinite, log10

_COUNTS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SCALES = {
    "s": ((3600.0, " h"), (60.0, " min"), (1.0, " s"), (1e-3, " ms"), (1e-6, " us")),
    "bytes": ((2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"), (1.0, " B")),
    "short": _COUNTS,
    "reqps": _COUNTS,
}


def readable(value: float, unit: str) -> str:
    """Three digits, and the unit. Raises KeyError for a unit that no panel has."""
    if not isfinite(value):
        return "none"
    if unit == "percentunit":
        return f"{_digits(value * 100)}%"
    scales = _SCALES[unit]
    factor, name = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1]) if value else (1.0, "")
    return f"{_digits(value / factor)}{name}{'/s' if unit == 'reqps' else ''}"


def _digits(value: float) -> str:
    if not value:
        return "0"
    places = max(0, 2 - floor(log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ticks(top: float, unit: str, wanted: int = 4) -> list[float]:
    """Round values of a unit from 0 up to about `top`."""
    if top <= 0 or not isfinite(top):
        return [0.0, 1.0]
    scale = next((factor for factor, _ in _SCALES["bytes"] if top >= factor), 1.0) if unit == "bytes" else 1.0
    magnitude = scale * 10 ** floor(log10(top / scale / wanted))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor * wanted >= top)
    return [step * number for number in range(wanted + 1) if step * (number - 1) < top]
