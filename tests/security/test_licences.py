"""What the distributions depend on may be used and passed on with them."""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement

ALLOWED = {
    *("0BSD", "3-Clause BSD License", "BSD License", "BSD-2-Clause", "BSD-3-Clause"),
    *("Apache 2.0 License", "Apache Software License", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"),
    *("ISC License (ISCL)", "MIT", "MIT License", "MIT-CMU"),
    *("CNRI-Python", "PSF-2.0", "Python Software Foundation License"),
    *("BSL-1.0", "CC0-1.0", "MPL-2.0", "Zlib"),
}
# The libraries that come with torch for CUDA: proprietary, and free to pass on under NVIDIA's own terms.
OF_CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")


def licences(of: Distribution) -> list[str]:
    """As the distribution states them: an expression, else classifiers, else a text."""
    classifiers = [each for each in of.metadata.get_all("Classifier", []) if each.startswith("License ::")]
    stated = of.metadata.get("License-Expression") or "; ".join(each.rpartition(" :: ")[2] for each in classifiers)
    return re.split(r" AND | OR |; ", stated or of.metadata.get("License", "unknown").splitlines()[0])


def dependencies(name: str) -> Iterator[Distribution]:
    """Everything that an installation of `name` brings along here, itself included."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(name)]
    while waiting:
        wanted = waiting.pop()
        key = (wanted.name.lower(), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:  # for another platform
            continue
        yield found
        needed = map(Requirement, found.requires or [])
        waiting += [each for each in needed if applies(each, wanted.extras)]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


@pytest.mark.parametrize("name", ["rhapsode-client", "rhapsode-server", "rhapsode-trainer"])
def test_every_dependency_has_a_licence_that_permits_it(name: str) -> None:
    found = {each.metadata["Name"]: licences(each) for each in dependencies(name)}
    assert len(found) > 10
    refused = {
        name: stated for name, stated in found.items() if not OF_CUDA.fullmatch(name) and not ALLOWED.issuperset(stated)
    }
    assert not refused
