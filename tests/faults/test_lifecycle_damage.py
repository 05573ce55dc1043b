"""Each file of a version is damaged in each way: it never serves, the reason is right, the old version is unharmed.

RHAPSODE_SOAK=1 flips every 50th part of each file, and lets the engine refuse more kinds of damage.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.damage import (
    add_word,
    edit_json,
    edit_weights,
    exchange,
    flip,
    put_nan,
    remove,
    reshape,
    swap_layers,
    swap_merges,
    truncate,
)
from support.fleet import Damage, Fleet
from support.operators import Operator, operating
from support.publishing import publish_model
from support.servers import running_server
from support.streams import Oracle, Streams
from support.tiny_models import tiny_model

SOAK = bool(os.environ.get("RHAPSODE_SOAK"))
MANIFEST = "MANIFEST.json"
FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("README.md", "evaluation.json", "samples.jsonl", "lineage.json", "postprocess.json", "canary.json"),
)
OTHER_FILES = {
    "tokenizer_config.json": {},
    "README.md": "a model",
    "evaluation.json": {"schema_version": 1},
    "samples.jsonl": {"prompt": "the sea"},
    "lineage.json": {"schema_version": 1, "seed": 0},
    "postprocess.json": {"schema_version": 1, "steps": []},
}


def write_other_files(folder: Path) -> None:
    """What the trainer writes beside the model."""
    for name, content in OTHER_FILES.items():
        (folder / name).write_text(json.dumps(content))


def publish(root: Path, seed: int, damage: Damage | None = None) -> int:
    """A whole version, as sealed: damage to it is no damage to its files."""

    def spoil(folder: Path) -> None:
        write_other_files(folder)
        if damage:
            damage(folder)

    return publish_model(root, "poems", tiny_model("gpt2", seed=seed), canary=True, spoil=spoil)


def made_different(version: Path, place: Path) -> Path:
    """A copy of a version in which each file differs from that of any other."""
    shutil.copytree(version, place)
    for name in {*FILES, MANIFEST} - {"model.safetensors"}:
        (place / name).write_bytes((place / name).read_bytes() + b"\n")
    return place


def damage_to_files(other: Path) -> dict[str, tuple[Damage, str]]:
    """Name of each damage, how it is done, and the reason to be given: the manifest tells."""
    cases: dict[str, tuple[Damage, str]] = {}
    for name in FILES:
        cases[f"{name} truncated"] = truncate(name), "hash_mismatch"
        for part in range(51) if SOAK else (25,):
            cases[f"{name} flipped at {2 * part}%"] = flip(name, part / 50), "hash_mismatch"
        cases[f"{name} missing"] = remove(name), "missing_file"
        cases[f"{name} of another version"] = exchange(name, other), "hash_mismatch"
    # Without a manifest it is a version that is still being copied: nothing to refuse, nothing to serve.
    cases[f"{MANIFEST} missing"] = remove(MANIFEST), ""
    cases[f"{MANIFEST} truncated"] = truncate(MANIFEST), "bad_manifest"
    cases[f"{MANIFEST} flipped"] = flip(MANIFEST, 0), "bad_manifest"
    cases[f"{MANIFEST} of another version"] = exchange(MANIFEST, other), "hash_mismatch"
    cases["a file too many"] = lambda folder: (folder / "extra.json").touch(), "foreign_file"
    cases["a link out of it"] = link_out, "foreign_file"
    return cases


def link_out(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "elsewhere.json")
    (folder / "config.json").symlink_to(folder.parent / "elsewhere.json")


def damage_to_the_model(other: Path) -> dict[str, tuple[Damage, str]]:
    """Sealed as it is, so that files and manifest agree: only running it tells."""
    cases: dict[str, tuple[Damage, str]] = {
        "weights of another version": (exchange("model.safetensors", other), "canary_off"),
        "a NaN among the weights": (edit_weights(put_nan), "non_finite_logits"),
    }
    more = {
        "weights of a wrong shape": (edit_weights(reshape), "load_failed"),
        "a vocabulary beyond the model's": (add_word, "tokenizer_mismatch"),
        "two layers exchanged": (edit_weights(swap_layers), "canary_off"),
        "two merges exchanged": (swap_merges, "tokenizer_mismatch"),
        "weights cut short": (truncate("model.safetensors"), "load_failed"),
        "a canary of another version": (exchange("canary.json", other), "canary_off"),
        "other heads": (edit_json("config.json", n_head=2), "canary_off"),
        "an unknown architecture": (edit_json("config.json", model_type="ode", architectures=["Ode"]), "load_failed"),
        "no tokenizer": (remove("tokenizer.json"), "load_failed"),
        "a canary that is none": (lambda folder: (folder / "canary.json").write_text("{}"), "canary_off"),
    }
    return cases | more if SOAK else cases


@dataclass(frozen=True)
class Place:
    """Version 1 serves. Damaged ones, by what was done to them, are there, and nothing points to them yet."""

    operator: Operator
    fleet: Fleet
    files: dict[str, int]
    models: dict[str, int]
    reasons: dict[str, str]

    @asynccontextmanager
    async def unharmed(self) -> AsyncIterator[None]:
        """Version 1 serves all the time, in one and the same process, and callers get right answers from it alone."""
        operator, worker = self.operator, self.operator.worker_of(1)
        async with Streams(operator.server.address, count=2, pause=0.2) as streams:
            yield
            await streams.until_next(4)
        streams.check({1: Oracle(tiny_model("gpt2", seed=1))})
        assert operator.serving() == {1}
        assert operator.worker_of(1) == worker
        assert operator.server.metric("rhapsode_worker_restarts_total") == 0
        assert "Traceback" not in operator.server.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root, elsewhere = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("elsewhere")
    publish(root, seed=1)
    other = made_different(root / "poems" / str(publish(root, seed=2)), elsewhere / "other")
    of_files, of_models = damage_to_files(other), damage_to_the_model(root / "poems" / "2")
    models = {name: publish(root, seed=1, damage=damage) for name, (damage, _) in of_models.items()}
    fleet = Fleet(root)
    fleet.promote(1)
    files = {name: fleet.copy(1, damage) for name, (damage, _) in of_files.items()}
    reasons = {name: reason for name, (_, reason) in (of_files | of_models).items()}
    with running_server(root, "--threads", "1", "--poll-interval", "20ms") as server, operating(server, 1) as operator:
        yield Place(operator, fleet, files, models, reasons)


def reasons_given(operator: Operator, fleet: Fleet, versions: Mapping[str, int]) -> dict[str, str]:
    """Each is made the champion until the server has made up its mind. Empty: it does not count as a version."""
    reasons = {}
    for name, version in versions.items():
        fleet.promote(version)
        operator.until(lambda: operator.model().aliases["champion"] == version)  # noqa: B023 - used up at once
        if version in fleet.folder.versions():
            operator.until(lambda: operator.states().get(version) == "quarantined")  # noqa: B023
        assert operator.serving() == {1}, name
        reasons[name] = operator.reason(version)
        fleet.promote(1)
    return reasons


@pytest.mark.timeout(1200)
async def test_damage_to_any_file_in_any_way_is_found_before_anything_is_loaded(place: Place) -> None:
    async with place.unharmed():
        reasons = await asyncio.to_thread(reasons_given, place.operator, place.fleet, place.files)
    assert reasons == {name: place.reasons[name] for name in reasons}
    loaded = [line for line in place.operator.server.log if line.rstrip().endswith(": loading")]
    assert len(loaded) == 1, "no worker was started for any of them"
    print(f"{len(reasons)} damages to files found")


@pytest.mark.timeout(1200)
async def test_a_model_that_is_not_what_was_published_is_refused(place: Place) -> None:
    async with place.unharmed():
        reasons = await asyncio.to_thread(reasons_given, place.operator, place.fleet, place.models)
    assert reasons == {name: place.reasons[name] for name in reasons}
    for reason in set(reasons.values()):
        quarantines = place.operator.server.metric("rhapsode_quarantines_total", model="poems", reason=reason)
        assert quarantines >= list(reasons.values()).count(reason)
    print(f"{len(reasons)} wrong models refused")
