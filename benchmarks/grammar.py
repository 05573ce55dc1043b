"""Constraints: time to prepare them, and time of a mask, beside xgrammar where that is installed.

A form is proven in its own process and then built ("first"), or built alone once it is proven ("again"). Masks are
timed on walks at random through the form. Usage: python benchmarks/grammar.py TOKENIZER_JSON
"""

import argparse
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from rhapsode_server.engine.grammar import Grammars
from rhapsode_server.engine.refusal import BadConstraint
from rhapsode_server.engine.request import Constraint
from rhapsode_server.text.tokenizer import Tokenizer

NUM_WALKS, NUM_TOKENS = 5, 60
TREE = {"type": "object", "properties": {"name": {"type": "string"}, "children": {"type": "array"}}}
TREE["properties"]["children"] |= {"items": {"$ref": "#"}}
JSON_GRAMMAR = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= "" | " " | "\n" [ \t]{0,20}
"""


def schema(document: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(document))


def nested(depth: int) -> dict[str, Any]:
    inner = nested(depth - 1) if depth else {"type": "integer"}
    return {"type": "object", "properties": {"inner": inner}, "required": ["inner"], "additionalProperties": False}


FORMS = {
    "any JSON": schema({}),
    "small schema": schema({"properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "type": "object"}),
    "30 objects deep": schema(nested(30)),
    "recursive schema": schema(TREE),
    "enum of 10,000": schema({"enum": [f"value number {i}" for i in range(10_000)]}),
    "anyOf of 500": schema({"anyOf": [{"properties": {f"k{i}": {"const": i}}, "type": "object"} for i in range(500)]}),
    "e-mail regex": Constraint("regex", r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,6}"),
    "hard regex": Constraint("regex", "(a|b)*a(a|b){30}"),
    "500 choices": Constraint("choices", json.dumps([f"choice {i * 7919 % 100003}" for i in range(500)])),
    "JSON grammar": Constraint("grammar", JSON_GRAMMAR),
    "ambiguous grammar": Constraint("grammar", 'root ::= s\ns ::= "a" | s s | s s s'),
    "2,000 properties": schema({"properties": {f"p{i}": {"type": "string"} for i in range(2000)}, "type": "object"}),
    "20,000 references": schema(
        {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(20000)} | {"20000": {}}}
    ),
    "30 patterns in allOf": schema({"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(10, 40)]}),
    "a billion items": schema({"type": "array", "items": {"type": "integer"}, "maxItems": 10**9}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.json")
    file = parser.parse_args().tokenizer
    size = Tokenizer(load_library(file)).vocabulary_size
    print(f"{size} tokens\n\n| form | first, ms | again, ms | mask, median / largest, us |\n|---|---|---|---|")
    with closing(Grammars(file, vocabulary_size=size)) as grammars:
        for warming in range(8):  # the processes start
            grammars.prepare(Constraint("regex", f"a{{{warming + 1}}}"), ()).result()
        for name, form in FORMS.items():
            print(f"| {name} | {measure(grammars, form)} |", flush=True)
    if importlib.util.find_spec("xgrammar"):
        measure_xgrammar(file, size)


def load_library(file: Path) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(file))


def measure(grammars: Grammars, form: Constraint) -> str:
    first, failure = timed(lambda: grammars.prepare(form, ()).result())
    if isinstance(failure, BadConstraint):
        return f"{1000 * first:.1f} | refused | {failure.detail[:60]}"
    again, _ = timed(lambda: grammars.prepare(form, ()).result())
    times = []
    for seed in range(NUM_WALKS):
        matcher, generator = grammars.prepare(form, ()).result(), random.Random(seed)
        for _ in range(NUM_TOKENS):
            if matcher.is_complete:
                break
            token_id = draw(matcher.allowed_mask(), generator)
            seconds, failure = timed(lambda matcher=matcher, token_id=token_id: matcher.accept(token_id))
            times.append(seconds)
            if failure:
                break
    return f"{1000 * first:.1f} | {1000 * again:.1f} | {spread(times)}"


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and BadConstraint if that was raised."""
    began = time.perf_counter()
    try:
        call()
    except BadConstraint as error:
        return time.perf_counter() - began, error
    return time.perf_counter() - began, None


def draw(mask: bytes, generator: random.Random) -> int:
    return generator.choice([i for i, bit in enumerate(bin(int.from_bytes(mask, "little"))[:1:-1]) if bit == "1"])


def spread(times: list[float]) -> str:
    return f"{1e6 * statistics.median(times):.0f} / {1e6 * max(times):.0f}"


def measure_xgrammar(file: Path, size: int) -> None:
    import xgrammar

    pieces = load_library(file).get_vocab()
    vocabulary = [""] * size
    for piece, token_id in pieces.items():
        vocabulary[token_id] = piece
    info = xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.BYTE_LEVEL, vocab_size=size, stop_token_ids=[size - 1])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    compilers = {
        "json_schema": compiler.compile_json_schema,
        "regex": compiler.compile_regex,
        "grammar": compiler.compile_grammar,
    }
    print("\nxgrammar\n\n| form | compile, ms | mask, median / largest, us |\n|---|---|---|")
    for name in list(FORMS)[:11]:  # the others would stop this process, or never end
        form = FORMS[name]
        if form.kind in compilers:
            began = time.perf_counter()
            compiled = compilers[form.kind](form.source)
            print(
                f"| {name} | {1000 * (time.perf_counter() - began):.1f} | {walk_xgrammar(xgrammar, compiled, size)} |"
            )


def walk_xgrammar(xgrammar: Any, compiled: Any, size: int) -> str:
    times, mask = [], xgrammar.allocate_token_bitmask(1, size)
    for seed in range(NUM_WALKS):
        matcher, generator = xgrammar.GrammarMatcher(compiled), random.Random(seed)
        for _ in range(NUM_TOKENS):
            began = time.perf_counter()
            matcher.fill_next_token_bitmask(mask)
            times.append(time.perf_counter() - began)
            token_id = draw(mask.numpy().tobytes(), generator)
            if token_id == size - 1 or not matcher.accept_token(token_id):
                break
    return spread(times)


if __name__ == "__main__":
    main()
