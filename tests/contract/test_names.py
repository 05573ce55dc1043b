import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_contract.model_directory import MODEL_NAME_PATTERN, check_model_name, names


@pytest.mark.parametrize("name", ["poems", "0", "gpt-2.5_x", "a" * 63])
def test_a_valid_name_is_returned(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".lease", "-a", "Poems", "a b", "a/b", "..", "poems\n", "a" * 64, "gedichtä", "٣"]
)
def test_an_invalid_name_is_refused_and_quoted(name: str) -> None:
    with pytest.raises(ValueError, match="model name") as caught:
        check_model_name(name)
    assert repr(name) in str(caught.value)


@given(st.from_regex(MODEL_NAME_PATTERN, fullmatch=True))
def test_no_valid_name_leaves_the_directory_or_hides_in_it(name: str) -> None:
    assert "/" not in name
    assert not name.startswith(".")


@pytest.mark.parametrize("alias", ["", "12", "Champion", "a/b", "champion\n"])
def test_an_invalid_alias_is_refused(alias: str) -> None:
    with pytest.raises(ValueError, match="alias"):
        names.check_alias(alias)


@given(st.integers(min_value=1, max_value=10**17))
def test_versions_are_decimal_without_leading_zero(version: int) -> None:
    assert names.parse_version(str(version)) == version
    assert names.parse_version(f"0{version}") is None


@pytest.mark.parametrize("name", ["0", "-1", "1.0", "1a", "", "٣", "1\n", "MANIFEST.json"])
def test_other_names_are_no_versions(name: str) -> None:
    assert names.parse_version(name) is None


@given(st.integers(min_value=1, max_value=10**17))
def test_a_trash_name_tells_its_version(version: int) -> None:
    parsed = names.parse_trash_name(names.trash_name(version))
    assert parsed is not None
    assert parsed[0] == version


@pytest.mark.parametrize("file", ["model.bin", "a.pt", "a.pth", "a.pkl", "sub/a.PKL", "LICENSE", ".json", "a.py"])
def test_a_pickle_or_unknown_kind_is_not_publishable(file: str) -> None:
    with pytest.raises(ValueError, match="cannot be published") as caught:
        names.check_publishable(file)
    assert file in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model-00001-of-00002.safetensors", "README.md", "sub/a.jsonl"])
def test_the_files_of_a_version_are_publishable(file: str) -> None:
    assert names.check_publishable(file) == file
