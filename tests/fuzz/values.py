"""What the fields of requests usually hold, by name, and what nobody would put there, by type."""

import math
import string
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from support.tiny_models import VOCABULARY_SIZE

TEXTS = [
    *["", "the sea", "a", " \n\t ", "no star is alone, and no ship", "<|endoftext|>", "the sea<|endoftext|>the sea"],
    *["🎻👩\u200d👩\u200d👧\u200d👦 🌊", "e\u0301\u0301 Z\u0351\u036b", "שלום \u202eabc\u202c", "a\0b\0\0c"],
    *["\ufeffthe", "\ufffd", "\U0010ffff"],
]

_OPEN = '{"type": "array", "items": '
SCHEMAS = [
    *["{}", "true", "false", '{"type": "integer"}', '{"enum": ["a", 1, null]}', '{"const": {"a": [1]}}'],
    '{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name"]}',
    '{"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}',
    *['{"$ref": "#"}', '{"$ref": "#/nowhere"}', '{"$ref": "https://example.org/a.json"}', '{"type": "nothing"}'],
    *["", "{", "[]", "null", "1e999", '"', '{"type": 5}', '{"pattern": "("}', '{"minLength": -1}', "\0", "\ufeff{}"],
    *[_OPEN * depth + "{}" + "}" * depth for depth in (30, 1000, 20_000)],
    '{"type": "string", "minLength": 100000000}',
    '{"enum": [' + ", ".join(f'"{number}"' for number in range(3000)) + "]}",
    '{"allOf": [{"type": "string"}, {"type": "integer"}]}',
]
EXPRESSIONS = [
    *["a", "[a-z]+", "(the|a) sea", "\\d{1,3}", ".*", "", "^a$", "\\p{L}+", "é+", "\\x00", "[^a]", "a|", "(?:)"],
    *["(", ")", "[", "[z-a]", "*", "a**", "\\", "(?=a)b", "(a)\\1", "a{2,1}", "(?P<n>a)", "\\p{Nothing}", "\0"],
    *["(a+)+b", "((a{50}){50}){50}", "a{1000000}", "(" * 3000 + "a" + ")" * 3000, "(a|b)*" * 300, ".{0,5000}b"],
]
GRAMMARS = [
    *['root ::= "a" | "b"', 'root ::= "sea" root | "."', "root ::= [a-z]+", 'root ::= ("a" "b")* "c"?'],
    *["", "root", "root ::=", "a ::= b", "root ::= missing", 'root ::= "', "root ::= [", "root ::= (", "::=", "\0"],
    *["root ::= root", 'root ::= root "a"', 'root ::= a\na ::= root | "x"', 'root ::= "" root', 'root ::= ""'],
    *["root ::= " + "(" * 3000 + '"a"' + ")" * 3000, 'root ::= "a"{1000000}', "root ::= " + '"a" ' * 20_000],
    "\n".join(f"r{number} ::= r{number + 1} r{number + 1}" for number in range(60)) + '\nr60 ::= "a"\nroot ::= r0',
]


def _text(rng: Random) -> str:
    return " ".join(rng.choices(TEXTS, k=rng.randint(1, 3)))


def _token_id(rng: Random) -> int:
    return rng.randrange(VOCABULARY_SIZE)


def _word(rng: Random) -> str:
    return rng.choice(
        ["e", "th", " sea", "\n", "é", "\ufffd", ".", "the sea", "🌊", "".join(rng.choices("aest ", k=3))]
    )


def _among(*values: Any) -> Callable[[Random], Any]:
    return lambda rng: rng.choice(values)


USUAL: Mapping[str, Callable[[Random], Any]] = {
    "model": _among("gpt2", "gpt2", "llama", ""),
    "version": _among(1),
    "alias": _among("champion"),
    "role": _among("system", "user", "assistant"),
    "prompt": _text,
    "text": _text,
    "content": _text,
    "ids": _token_id,
    "temperature": _among(0.0, 0.5, 1.0, 2.0),
    "top_k": _among(0, 1, 5, 50, 1000),
    "top_p": _among(0.1, 0.9, 1.0),
    "min_p": _among(0.0, 0.05, 1.0),
    "typical_p": _among(0.2, 0.95, 1.0),
    "repetition_penalty": _among(0.5, 1.0, 1.3),
    "presence_penalty": _among(-1.0, 0.0, 1.0),
    "frequency_penalty": _among(-1.0, 0.0, 1.0),
    "seed": _among(0, 1, 5, 2**64 - 1),
    "logit_bias.key": _token_id,
    "logit_bias.value": _among(-100.0, -1.0, 0.0, 5.0, 100.0),
    "allowed_token_ids": _token_id,
    "banned_words": _word,
    "max_new_tokens": _among(0, 1, 5, 20, 40),
    "min_new_tokens": _among(0, 1, 3),
    "stop_strings": _word,
    "stop_token_ids": _token_id,
    "seconds": _among(0, 0, 1, 5),
    "nanos": _among(1, 1_000_000, 20_000_000),
    "top_logprobs": _among(0, 1, 5, 20),
    "priority": _among(-100, -1, 0, 1, 100),
    "request_id": _among("", "fuzz"),
    "json_schema": _among(*SCHEMAS),
    "regex": _among(*EXPRESSIONS),
    "texts": _text,
    "grammar": _among(*GRAMMARS),
    "num_completions": _among(0, 1, 2, 4),
    "overlap": _among(0, 1, 16, 64),
}

_UNSIGNED = [0, 1, 2, 127, 128, VOCABULARY_SIZE, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
_FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 100.0, 100.00001, 3e38, -3e38, math.inf, -math.inf, math.nan]
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: 32,
    FieldDescriptor.CPPTYPE_UINT32: 32,
    FieldDescriptor.CPPTYPE_INT64: 64,
    FieldDescriptor.CPPTYPE_UINT64: 64,
}
_SIGNED = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}


def unusual(field: FieldDescriptor, rng: Random) -> Any:
    """Any value that the type of a scalar field allows."""
    kind = field.cpp_type
    if kind in _BITS:
        bits = _BITS[kind]
        number = rng.choice([*_UNSIGNED, rng.getrandbits(64)]) % 2**bits
        return number - 2**bits if kind in _SIGNED and number >= 2 ** (bits - 1) else number
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([*(value.number for value in field.enum_type.values), -1, 99, 2**31 - 1])
    return rng.randbytes(rng.randint(0, 40)) if field.type == FieldDescriptor.TYPE_BYTES else _unusual_text(rng)


def _unusual_text(rng: Random) -> str:
    match rng.randrange(4):
        case 0:
            return rng.choice([*TEXTS, *SCHEMAS, *EXPRESSIONS, *GRAMMARS])
        case 1:
            return rng.choice(["a", "sea ", "🌊", "\0", "▁", "\n"]) * rng.choice([100, 1000, 50_000, 300_000])
        case 2:
            return "".join(rng.choices(string.printable, k=rng.randint(0, 300)))
    return "".join(chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(30))
