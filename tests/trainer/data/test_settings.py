from typing import Any

import pytest
from rhapsode_trainer.data.settings import DataConfig, RowsConfig, SourceConfig

FILE = SourceConfig(path="a.txt")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "path: ''"),
        ({"path": "a", "hub": "b", "revision": "0" * 40}, "path: 'a'"),
        ({"path": "a", "format": "xml"}, "format: 'xml' is not one of auto, text"),
        ({"path": "a", "heading": "("}, r"heading: '\(' is not a regular expression"),
        ({"path": "a", "revision": "0" * 40}, "revision: .* only with hub"),
        ({"hub": "owner/poems"}, "revision: '' is not a commit"),
        ({"hub": "owner/poems", "revision": "main"}, "revision: 'main' is not a commit"),
        ({"hub": "owner/poems", "revision": "0" * 39}, "revision: '0+' is not a commit"),
    ],
)
def test_a_wrong_source_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SourceConfig(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sources": ()}, "sources: "),
        ({"text_field": ""}, "text_field: ''"),
        ({"prompt_field": "text"}, "prompt_field: 'text' is the same"),
        ({"prompt_field": "p", "sources": (SourceConfig(path="a", heading="x"),)}, "prompt_field: 'p' does not go"),
        ({"on_bad_row": "ignore"}, "on_bad_row: 'ignore'"),
        ({"max_document_bytes": 0}, "max_document_bytes: 0"),
        ({"cleaning": ("strip", "wash")}, "cleaning: 'wash' is not one of ftfy"),
        ({"part": 0}, "part: 0"),
        ({"part": 1.5}, "part: 1.5"),
        ({"held_out": 1}, "held_out: 1"),
        ({"held_out": 0}, "held_out: 0 is needed"),
        ({"held_out": 0.5, "validation": 0.5}, "validation: 0.5"),
        ({"held_out_sources": (FILE,)}, "held_out: 0.1 is a share"),
        ({"validation": 0.1, "validation_sources": (FILE,)}, "validation: 0.1 is a share"),
    ],
)
def test_a_wrong_data_setting_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DataConfig(**{"sources": (FILE,), "held_out": 0.1, **options})


@pytest.mark.parametrize(
    ("options", "named"),
    [({"kind": "rolled"}, "kind"), ({"block_size": 1}, "block_size"), ({"loss_on": "prompt"}, "loss_on")],
)
def test_a_wrong_row_setting_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: "):
        RowsConfig(**{"kind": "packed", "block_size": 8, **options})
