"""A model folder never runs anything, whatever it claims to need: not where it is served, not where it is published."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rhapsode_server.engine.loader import load_model
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.text.chat import ChatError, ChatTemplate
from rhapsode_trainer.errors import SourceError
from rhapsode_trainer.publish.source import load_source
from support.damage import edit_json
from support.publishing import tiny_tokenizer
from support.tiny_models import tiny_model
from transformers import PreTrainedTokenizerFast

TRACE = "code-ran"
Spoil = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole model folder. Whoever answers a question of transformers on the terminal would say yes."""
    monkeypatch.setattr("builtins.input", lambda question: "y")
    folder = tmp_path / "model"
    tiny_model("gpt2").save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer()).save_pretrained(folder)
    return folder


class Bomb:
    """A pickle that leaves a trace where it is loaded."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._trace,)


def write_code(folder: Path) -> None:
    source = f"import pathlib\npathlib.Path({str(folder.parent / TRACE)!r}).touch()\n"
    classes = "from transformers import *\nclass Mine(PreTrainedConfig): model_type = 'mine'\nModel = Mine\n"
    (folder / "mine.py").write_text(source + classes)


def own_architecture(folder: Path) -> None:
    write_code(folder)
    auto = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}
    config = {"model_type": "mine", "architectures": ["GPT2LMHeadModel"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(config))


def own_model(folder: Path) -> None:
    write_code(folder)
    edit_json("config.json", auto_map={"AutoModelForCausalLM": "mine.Model"})(folder)


def own_tokenizer(folder: Path) -> None:
    write_code(folder)
    auto = {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}
    edit_json("tokenizer_config.json", auto_map=auto, tokenizer_class="MineTokenizer")(folder)


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / TRACE)))


def pickled_adapter(folder: Path) -> None:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "x", "target_modules": ["c_fc"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / TRACE)))


def kernel_from_elsewhere(folder: Path) -> None:
    edit_json("config.json", attn_implementation="somebody/kernel")(folder)


def shards_elsewhere(folder: Path) -> None:
    """Weights that are not in the folder, by way of its index."""
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    weights = {name: "../other.safetensors" for name in tiny_model("gpt2").state_dict() if name != "lm_head.weight"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


REFUSED_BY_BOTH: tuple[Spoil, ...] = (own_architecture, pickled_weights, kernel_from_elsewhere)
REFUSED_BY_THE_TRAINER: tuple[Spoil, ...] = (*REFUSED_BY_BOTH, pickled_adapter, shards_elsewhere)


@pytest.mark.parametrize("spoil", REFUSED_BY_BOTH)
def test_the_engine_refuses_to_load_it(folder: Path, spoil: Spoil) -> None:
    spoil(folder)
    with pytest.raises(ModelRefused, match="load_failed"):
        load_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    assert not (folder.parent / TRACE).exists()


def test_the_engine_loads_its_own_code_for_an_architecture_that_it_knows(folder: Path) -> None:
    own_model(folder)
    loaded = load_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    assert type(loaded.model).__module__.startswith("transformers.")
    assert not (folder.parent / TRACE).exists()


@pytest.mark.parametrize("spoil", REFUSED_BY_THE_TRAINER)
def test_the_trainer_refuses_to_publish_it(folder: Path, spoil: Spoil) -> None:
    spoil(folder)
    with pytest.raises(SourceError, match=str(folder)):
        load_source(folder)
    assert not (folder.parent / TRACE).exists()


def test_a_folder_of_the_hubs_cache_is_one_of_links(folder: Path) -> None:
    """Those of whoever publishes are followed: what is published is what was loaded."""
    split = dict.fromkeys(tiny_model("gpt2").state_dict(), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": split}))
    links = folder.parent / "links"
    links.mkdir()
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    model, _ = load_source(links)
    assert model.num_parameters() == tiny_model("gpt2").num_parameters()


@pytest.mark.parametrize("spoil", [own_model, own_tokenizer])
def test_the_trainer_publishes_what_is_known_without_the_code_beside_it(folder: Path, spoil: Spoil) -> None:
    spoil(folder)
    model, tokenizer = load_source(folder)
    assert type(model).__module__.startswith("transformers.")
    assert type(tokenizer).__module__.startswith("transformers.")
    assert not (folder.parent / TRACE).exists()


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ dict.__globals__ }}",
    "{{ strftime_now.__globals__['jinja2'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{% for key in messages.pop.__self__ %}{{ key.clear() }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
)


@pytest.mark.parametrize("template", ESCAPES, ids=range(len(ESCAPES)))
def test_a_chat_template_does_not_get_out_of_its_sandbox(template: str) -> None:
    try:
        text = ChatTemplate(template, {}).render([{"role": "user", "content": "x"}])
    except (ChatError, ValueError):
        return
    assert not any(word in text for word in ("class", "module", "uid=", "root:", "object"))


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 9999999 }}",
    ],
)
def test_a_chat_template_that_writes_without_end_is_stopped(template: str) -> None:
    with pytest.raises(ChatError, match=r"makes more than|takes more than"):
        ChatTemplate(template, {}, max_seconds=0.2).render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in b %}" * 40 + "{% endfor %}" * 40,
        "{{ " + "(" * 5000 + "x" + ")" * 5000 + " }}",
        "{% if a %}" * 5000 + "{% endif %}" * 5000,
        "{{ a" + "[a" * 500 + "]" * 500 + " }}",
    ],
    ids=range(4),
)
def test_a_chat_template_that_is_too_deep_is_no_template(template: str) -> None:
    with pytest.raises(ValueError, match="the chat template cannot be read"):
        ChatTemplate(template, {})
