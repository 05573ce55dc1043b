from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_STATE_UNSPECIFIED: _ClassVar[VersionState]
    VERSION_STATE_DISCOVERED: _ClassVar[VersionState]
    VERSION_STATE_VERIFYING: _ClassVar[VersionState]
    VERSION_STATE_LOADING: _ClassVar[VersionState]
    VERSION_STATE_WARMING: _ClassVar[VersionState]
    VERSION_STATE_CANARY: _ClassVar[VersionState]
    VERSION_STATE_READY: _ClassVar[VersionState]
    VERSION_STATE_SERVING: _ClassVar[VersionState]
    VERSION_STATE_DRAINING: _ClassVar[VersionState]
    VERSION_STATE_UNLOADED: _ClassVar[VersionState]
    VERSION_STATE_QUARANTINED: _ClassVar[VersionState]
VERSION_STATE_UNSPECIFIED: VersionState
VERSION_STATE_DISCOVERED: VersionState
VERSION_STATE_VERIFYING: VersionState
VERSION_STATE_LOADING: VersionState
VERSION_STATE_WARMING: VersionState
VERSION_STATE_CANARY: VersionState
VERSION_STATE_READY: VersionState
VERSION_STATE_SERVING: VersionState
VERSION_STATE_DRAINING: VersionState
VERSION_STATE_UNLOADED: VersionState
VERSION_STATE_QUARANTINED: VersionState

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "aliases", "versions", "traffic")
    class AliasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class TrafficEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    name: str
    aliases: _containers.ScalarMap[str, int]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    traffic: _containers.ScalarMap[int, int]
    def __init__(self, name: _Optional[str] = ..., aliases: _Optional[_Mapping[str, int]] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., traffic: _Optional[_Mapping[int, int]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "state", "reason", "dtype", "device", "parameter_count", "limits", "evaluation")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    version: int
    state: VersionState
    reason: str
    dtype: str
    device: str
    parameter_count: int
    limits: Limits
    evaluation: Evaluation
    def __init__(self, version: _Optional[int] = ..., state: _Optional[_Union[VersionState, str]] = ..., reason: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., parameter_count: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("bits_per_byte", "perplexity", "accepted")
    BITS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    bits_per_byte: float
    perplexity: float
    accepted: bool
    def __init__(self, bits_per_byte: _Optional[float] = ..., perplexity: _Optional[float] = ..., accepted: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("context_length", "vocabulary_size", "max_sequences", "max_queued_requests", "max_queued_tokens", "max_text_bytes", "max_tokenize_bytes", "max_detokenize_tokens", "max_score_tokens", "max_messages", "max_stop_strings", "max_stop_string_characters", "max_stop_token_ids", "max_logit_biases", "max_banned_words", "max_banned_word_characters", "max_top_logprobs", "max_constraint_bytes", "max_batch_completions", "max_message_bytes", "max_choices")
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_DETOKENIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_STRINGS_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_STRING_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_LOGIT_BIASES_FIELD_NUMBER: _ClassVar[int]
    MAX_BANNED_WORDS_FIELD_NUMBER: _ClassVar[int]
    MAX_BANNED_WORD_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONSTRAINT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CHOICES_FIELD_NUMBER: _ClassVar[int]
    context_length: int
    vocabulary_size: int
    max_sequences: int
    max_queued_requests: int
    max_queued_tokens: int
    max_text_bytes: int
    max_tokenize_bytes: int
    max_detokenize_tokens: int
    max_score_tokens: int
    max_messages: int
    max_stop_strings: int
    max_stop_string_characters: int
    max_stop_token_ids: int
    max_logit_biases: int
    max_banned_words: int
    max_banned_word_characters: int
    max_top_logprobs: int
    max_constraint_bytes: int
    max_batch_completions: int
    max_message_bytes: int
    max_choices: int
    def __init__(self, context_length: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., max_sequences: _Optional[int] = ..., max_queued_requests: _Optional[int] = ..., max_queued_tokens: _Optional[int] = ..., max_text_bytes: _Optional[int] = ..., max_tokenize_bytes: _Optional[int] = ..., max_detokenize_tokens: _Optional[int] = ..., max_score_tokens: _Optional[int] = ..., max_messages: _Optional[int] = ..., max_stop_strings: _Optional[int] = ..., max_stop_string_characters: _Optional[int] = ..., max_stop_token_ids: _Optional[int] = ..., max_logit_biases: _Optional[int] = ..., max_banned_words: _Optional[int] = ..., max_banned_word_characters: _Optional[int] = ..., max_top_logprobs: _Optional[int] = ..., max_constraint_bytes: _Optional[int] = ..., max_batch_completions: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_choices: _Optional[int] = ...) -> None: ...
