"""What keeps servers from the champion: the alias `pinned`, then traffic.json."""

from collections.abc import Mapping

from rhapsode_contract.model_directory import CHAMPION, PINNED, CorruptFile, ModelFolder


def what_holds(folder: ModelFolder) -> str:
    """What sends requests elsewhere than to the champion, and how to end it; empty when nothing does."""
    aliases = folder.aliases()
    try:
        weights = {version: weight for version, weight in folder.traffic().items() if weight}
    except CorruptFile as error:
        return f"servers stay where they are: {error}"
    champion, pinned = aliases.get(CHAMPION), aliases.get(PINNED)
    if pinned not in (None, champion):
        return (
            f"servers stay on version {pinned}, which is pinned; `rhapsode-train unpin {folder.name}` lets them go on"
        )
    if pinned is None and weights and weights.keys() != {champion}:
        end = f"`rhapsode-train traffic {folder.name} --clear` sends all of them to the champion"
        return f"servers split requests by weight, {render_weights(weights)}; {end}"
    return ""


def render_weights(weights: Mapping[int, int]) -> str:
    """As on the command line: 12=90 13=10."""
    return " ".join(f"{version}={weight}" for version, weight in weights.items())
