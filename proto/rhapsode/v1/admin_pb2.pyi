import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from rhapsode.v1 import models_pb2 as _models_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrafficSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRAFFIC_SOURCE_UNSPECIFIED: _ClassVar[TrafficSource]
    TRAFFIC_SOURCE_CHAMPION: _ClassVar[TrafficSource]
    TRAFFIC_SOURCE_PINNED: _ClassVar[TrafficSource]
    TRAFFIC_SOURCE_WEIGHTS: _ClassVar[TrafficSource]
    TRAFFIC_SOURCE_OVERRIDE: _ClassVar[TrafficSource]
    TRAFFIC_SOURCE_FALLBACK: _ClassVar[TrafficSource]
TRAFFIC_SOURCE_UNSPECIFIED: TrafficSource
TRAFFIC_SOURCE_CHAMPION: TrafficSource
TRAFFIC_SOURCE_PINNED: TrafficSource
TRAFFIC_SOURCE_WEIGHTS: TrafficSource
TRAFFIC_SOURCE_OVERRIDE: TrafficSource
TRAFFIC_SOURCE_FALLBACK: TrafficSource

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("server", "release", "started_at", "draining", "open_calls", "standby_ready", "models", "not_ready_because")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    OPEN_CALLS_FIELD_NUMBER: _ClassVar[int]
    STANDBY_READY_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    server: str
    release: str
    started_at: _timestamp_pb2.Timestamp
    draining: bool
    open_calls: int
    standby_ready: bool
    models: _containers.RepeatedCompositeFieldContainer[ModelAdminStatus]
    not_ready_because: str
    def __init__(self, server: _Optional[str] = ..., release: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., draining: bool = ..., open_calls: _Optional[int] = ..., standby_ready: bool = ..., models: _Optional[_Iterable[_Union[ModelAdminStatus, _Mapping]]] = ..., not_ready_because: _Optional[str] = ...) -> None: ...

class ModelAdminStatus(_message.Message):
    __slots__ = ("model", "traffic_source", "override", "replicas")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_SOURCE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    model: _models_pb2.Model
    traffic_source: TrafficSource
    override: TrafficOverride
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    def __init__(self, model: _Optional[_Union[_models_pb2.Model, _Mapping]] = ..., traffic_source: _Optional[_Union[TrafficSource, str]] = ..., override: _Optional[_Union[TrafficOverride, _Mapping]] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ...) -> None: ...

class TrafficOverride(_message.Message):
    __slots__ = ("weights", "until_fleet_decides", "expires_at", "reason")
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FLEET_DECIDES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    weights: _containers.ScalarMap[int, int]
    until_fleet_decides: bool
    expires_at: _timestamp_pb2.Timestamp
    reason: str
    def __init__(self, weights: _Optional[_Mapping[int, int]] = ..., until_fleet_decides: bool = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("version", "process_id", "device", "ready", "waiting", "running", "restarts")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    process_id: int
    device: str
    ready: bool
    waiting: int
    running: int
    restarts: int
    def __init__(self, version: _Optional[int] = ..., process_id: _Optional[int] = ..., device: _Optional[str] = ..., ready: bool = ..., waiting: _Optional[int] = ..., running: _Optional[int] = ..., restarts: _Optional[int] = ...) -> None: ...

class SetTrafficRequest(_message.Message):
    __slots__ = ("model", "weights", "ttl", "reason")
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    weights: _containers.ScalarMap[int, int]
    ttl: _duration_pb2.Duration
    reason: str
    def __init__(self, model: _Optional[str] = ..., weights: _Optional[_Mapping[int, int]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class SetTrafficResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ModelAdminStatus
    def __init__(self, status: _Optional[_Union[ModelAdminStatus, _Mapping]] = ...) -> None: ...

class ClearTrafficRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ClearTrafficResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ModelAdminStatus
    def __init__(self, status: _Optional[_Union[ModelAdminStatus, _Mapping]] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("model", "version", "ttl", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    ttl: _duration_pb2.Duration
    reason: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class PromoteResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ModelAdminStatus
    def __init__(self, status: _Optional[_Union[ModelAdminStatus, _Mapping]] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("model", "version", "ttl", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    ttl: _duration_pb2.Duration
    reason: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class PinResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ModelAdminStatus
    def __init__(self, status: _Optional[_Union[ModelAdminStatus, _Mapping]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("model", "ttl", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    ttl: _duration_pb2.Duration
    reason: str
    def __init__(self, model: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ModelAdminStatus
    def __init__(self, status: _Optional[_Union[ModelAdminStatus, _Mapping]] = ...) -> None: ...

class LoadVersionRequest(_message.Message):
    __slots__ = ("model", "version", "ttl")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    ttl: _duration_pb2.Duration
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class LoadVersionResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ModelAdminStatus
    def __init__(self, status: _Optional[_Union[ModelAdminStatus, _Mapping]] = ...) -> None: ...

class UnloadVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class UnloadVersionResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ModelAdminStatus
    def __init__(self, status: _Optional[_Union[ModelAdminStatus, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("resume",)
    RESUME_FIELD_NUMBER: _ClassVar[int]
    resume: bool
    def __init__(self, resume: bool = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("draining", "open_calls")
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    OPEN_CALLS_FIELD_NUMBER: _ClassVar[int]
    draining: bool
    open_calls: int
    def __init__(self, draining: bool = ..., open_calls: _Optional[int] = ...) -> None: ...
