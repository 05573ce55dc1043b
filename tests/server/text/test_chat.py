"""Chat templates, with transformers' own rendering as the oracle."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.text.chat import ChatError, ChatTemplate
from support.publishing import tiny_tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"

CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
LLAMA = """{% if messages[0]['role'] == 'system' %}
    {% set system = messages[0]['content'] %}{% set rest = messages[1:] %}
{% else %}
    {% set system = '' %}{% set rest = messages %}
{% endif %}
{{ bos_token }}{% for m in rest %}
    {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate user/assistant') }}
    {% endif %}
    {% if m['role'] == 'user' %}[INST] {{ (system + '\n' if loop.first and system else '') + m['content'] }} [/INST]
    {% else %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
    {% endif %}
{% endfor %}"""
HELPERS = """{% set ns = namespace(count=0) %}{% for m in messages %}{% if m.role == 'skip' %}{% continue %}{% endif %}
{% set ns.count = ns.count + 1 %}{{ ns.count }} {{ m | tojson(indent=1) }} {{ dict(a=m.content)['a'] }}
{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}{{ strftime_now('%Y') | length }}{{ tools is none }}
{{ unk_token }}
"""
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "helpers": HELPERS}
SPECIAL = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "__type": "AddedToken", "lstrip": False},
    "unk_token": "?",
}


def save(folder: Path, template: str, **config: Any) -> Path:
    """A version's tokenizer files, with the template as transformers 5 saves it."""
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp(name), template) for name, template in TEMPLATES.items()}


@pytest.fixture(scope="module")
def oracles(saved: dict[str, Path]) -> dict[str, Any]:
    from transformers import PreTrainedTokenizerFast

    return {name: PreTrainedTokenizerFast.from_pretrained(folder) for name, folder in saved.items()}


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
turns = st.builds(
    dict, role=st.sampled_from(["system", "user", "assistant", "skip"]), content=texts | st.just("<|im_end|> {{ x }}")
)


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(TEMPLATES)), conversation=st.lists(turns, min_size=1, max_size=5))
def test_it_renders_what_transformers_renders(
    name: str, conversation: list[dict[str, str]], saved: dict[str, Path], oracles: dict[str, Any]
) -> None:
    template = ChatTemplate.load(saved[name])
    assert template is not None
    expected, refusal = "", ""
    try:
        expected = oracles[name].apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        refusal = str(error)
    if refusal:
        with pytest.raises(ChatError, match=re.escape(refusal)):
            template.render(conversation)
    else:
        assert template.render(conversation) == expected


def test_the_words_of_a_template_that_refuses(saved: dict[str, Path]) -> None:
    template = ChatTemplate.load(saved["llama"])
    assert template is not None
    with pytest.raises(ChatError, match=r"^roles must alternate user/assistant$"):
        template.render([{"role": "assistant", "content": "hello"}])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("plain {{ messages | length }}", "plain 1"),
        ([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}], "default"),
        ([{"name": "tool_use", "template": "tools"}], None),
        (None, None),
    ],
)
def test_templates_in_the_configuration(tmp_path: Path, given: object, expected: str | None) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": given}))
    template = ChatTemplate.load(tmp_path)
    assert (template and template.render([{"role": "user", "content": "x"}])) == expected


def test_the_file_goes_before_the_configuration(tmp_path: Path) -> None:
    save(tmp_path, "the file's", chat_template="the configuration's")
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.render([]) == "the file's"


def test_a_version_without_a_template(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("chat_template.jinja", "{% if %}", "the chat template cannot be read"),
        ("chat_template.jinja", "{% unknown %}", "the chat template cannot be read"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json is not a JSON object"),
        ("tokenizer_config.json", "{", "tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template is neither a text nor a list"),
    ],
)
def test_a_broken_template_is_refused_by_name(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ dict.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ nothing.at.all }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{{ range(100000000) | length }}",
    ],
)
def test_what_a_template_must_not_do_is_no_crash(source: str) -> None:
    with pytest.raises(ChatError):
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])


def test_size_and_time_are_bounded() -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{{ messages[0].content }}{% endfor %}{% endfor %}"
    conversation = [{"role": "user", "content": "x" * 100}]
    with pytest.raises(ChatError, match="more than 1000 bytes"):
        ChatTemplate(endless, {}, max_bytes=1000).render(conversation)
    with pytest.raises(ChatError, match=r"more than 0\.05 s"):
        ChatTemplate(endless, {}, max_bytes=10**12, max_seconds=0.05).render(conversation)
