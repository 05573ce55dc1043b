"""The services of the wire contract, answered from a script."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import models_pb2

from rhapsode_client.errors import NotFound, RhapsodeError
from rhapsode_client.testing.answers import Answer, Served, Tokens, score
from rhapsode_client.testing.calls import Call, Caller
from rhapsode_client.testing.script import Reply, Script
from rhapsode_client.testing.statuses import abort, status_of

RequestT = TypeVar("RequestT", bound=Message)
_Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[Any, Any]]"

_LIMITS = models_pb2.Limits(
    context_length=1024, vocabulary_size=50257, max_sequences=64, max_queued_requests=512, max_message_bytes=2**22
)


@dataclass(frozen=True, slots=True)
class Servicer:
    """What the server knows and has been asked. Behaviours raise the RhapsodeError that ends their call."""

    models: Mapping[str, int]
    tokens: Tokens
    script: Script = field(default_factory=Script)
    calls: list[Call] = field(default_factory=list)
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    arrival: threading.Condition = field(default_factory=threading.Condition)
    """Notified when a call has come."""

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a gRPC server needs."""
        generation: _Handlers = {
            "Generate": self._one("Generate", pb.GenerateRequest, self._generate),
            "GenerateStream": self._many("GenerateStream", pb.GenerateRequest, self._stream),
            "GenerateBatch": self._many("GenerateBatch", pb.GenerateBatchRequest, self._batch),
            "Score": self._one("Score", pb.ScoreRequest, self._score),
            "Tokenize": self._one("Tokenize", pb.TokenizeRequest, self._tokenize),
            "Detokenize": self._one("Detokenize", pb.DetokenizeRequest, self._detokenize),
        }
        models: _Handlers = {
            "ListModels": self._one("ListModels", models_pb2.ListModelsRequest, self._list_models),
            "GetModel": self._one("GetModel", models_pb2.GetModelRequest, self._get_model),
        }
        return [
            grpc.method_handlers_generic_handler("rhapsode.v1.GenerationService", generation),
            grpc.method_handlers_generic_handler("rhapsode.v1.ModelService", models),
        ]

    def _generate(self, request: pb.GenerateRequest, caller: Caller) -> pb.GenerateResponse:
        served, reply = self._served(request, caller), self._reply(request)
        answer = Answer(request, reply, served, self.tokens)
        caller.wait(reply.delay)
        if reply.error:
            raise reply.error
        return answer.response(lambda: caller.wait(reply.token_delay))

    def _stream(self, request: pb.GenerateRequest, caller: Caller) -> Iterator[pb.GenerateStreamResponse]:
        served, reply = self._served(request, caller), self._reply(request)
        answer = Answer(request, reply, served, self.tokens)
        caller.wait(reply.delay)
        if not reply.error or reply.tokens:
            yield pb.GenerateStreamResponse(started=answer.started())
        for delta in answer.deltas(lambda: caller.wait(reply.token_delay)):
            if not caller.is_open:
                return
            yield pb.GenerateStreamResponse(delta=delta)
        if reply.error:
            raise reply.error
        caller.answered()
        yield pb.GenerateStreamResponse(finished=answer.finished())

    def _batch(self, batch: pb.GenerateBatchRequest, caller: Caller) -> Iterator[pb.GenerateBatchResponse]:
        for place, (item, completion, request) in enumerate(_completions(batch)):
            if not request.sampling.HasField("seed"):
                request.sampling.seed = (batch.seed + place) % 2**64
            try:
                response = self._generate(request, caller)
                yield pb.GenerateBatchResponse(item=item, completion=completion, response=response)
            except RhapsodeError as error:
                status = status_of(error, caller.request_id)
                yield pb.GenerateBatchResponse(item=item, completion=completion, error=status)
        caller.answered()

    def _score(self, request: pb.ScoreRequest, caller: Caller) -> pb.ScoreResponse:
        return score(request, self._served(request, caller), self.tokens)

    def _tokenize(self, request: pb.TokenizeRequest, caller: Caller) -> pb.TokenizeResponse:
        served = self._served(request, caller)
        tokens = self.tokens.vocabulary.tokens(request.text)
        return pb.TokenizeResponse(model=served.model, version=served.version, tokens=tokens)

    def _detokenize(self, request: pb.DetokenizeRequest, caller: Caller) -> pb.DetokenizeResponse:
        served = self._served(request, caller)
        text = self.tokens.vocabulary.text(request.token_ids.ids)
        return pb.DetokenizeResponse(model=served.model, version=served.version, text=text)

    def _list_models(self, _: models_pb2.ListModelsRequest, __: Caller) -> models_pb2.ListModelsResponse:
        return models_pb2.ListModelsResponse(models=[self._model(name) for name in sorted(self.models)])

    def _get_model(self, request: models_pb2.GetModelRequest, _: Caller) -> models_pb2.GetModelResponse:
        return models_pb2.GetModelResponse(model=self._model(self._name(request.model)))

    def _model(self, name: str) -> models_pb2.Model:
        version = self.models[name]
        state = models_pb2.ModelVersion(
            version=version, state=models_pb2.VERSION_STATE_SERVING, dtype="float32", device="cpu", limits=_LIMITS
        )
        return models_pb2.Model(name=name, aliases={"champion": version}, versions=[state], traffic={version: 100})

    def _reply(self, request: pb.GenerateRequest) -> Reply:
        self.requests.append(request)
        return self.script.reply_to(request)

    def _name(self, model: str) -> str:
        name = model or next(iter(self.models))
        if name not in self.models:
            raise NotFound(f"there is no model {name!r}; there are {', '.join(sorted(self.models))}")
        return name

    def _served(
        self, request: pb.GenerateRequest | pb.ScoreRequest | pb.TokenizeRequest | pb.DetokenizeRequest, caller: Caller
    ) -> Served:
        name = self._name(request.model)
        return Served(model=name, version=request.version or self.models[name], request_id=caller.request_id)

    def _one(
        self, method: str, kind: type[RequestT], behave: Callable[[RequestT, Caller], Message]
    ) -> "grpc.RpcMethodHandler[RequestT, Message]":
        def handle(request: RequestT, context: grpc.ServicerContext) -> Message:
            caller = self._caller(method, request, context)
            try:
                response = behave(request, caller)
                caller.answered()
                return response
            except RhapsodeError as error:
                caller.answered()
                abort(error, caller.request_id, context)

        return grpc.unary_unary_rpc_method_handler(handle, kind.FromString, _serialized)

    def _many(
        self, method: str, kind: type[RequestT], behave: Callable[[RequestT, Caller], Iterator[Message]]
    ) -> "grpc.RpcMethodHandler[RequestT, Message]":
        def handle(request: RequestT, context: grpc.ServicerContext) -> Iterator[Message]:
            caller = self._caller(method, request, context)
            try:
                yield from behave(request, caller)
            except RhapsodeError as error:
                caller.answered()
                abort(error, caller.request_id, context)

        return grpc.unary_stream_rpc_method_handler(handle, kind.FromString, _serialized)

    def _caller(self, method: str, request: Message, context: grpc.ServicerContext) -> Caller:
        metadata = dict(context.invocation_metadata())
        call = Call(method=method, request=request, metadata=metadata, timeout=context.time_remaining())
        with self.arrival:
            self.calls.append(call)
            self.arrival.notify_all()
        named = getattr(request, "request_id", "") or str(metadata.get("x-request-id", ""))
        return Caller(call, context, named or f"fake-{len(self.calls)}")


def _completions(batch: pb.GenerateBatchRequest) -> Iterator[tuple[int, int, pb.GenerateRequest]]:
    """Item, completion and the request of each; a seed of its own is counted up."""
    for item, each in enumerate(batch.items):
        for completion in range(each.num_completions or 1):
            request = pb.GenerateRequest()
            request.CopyFrom(each.request)
            if request.sampling.HasField("seed"):
                request.sampling.seed = (request.sampling.seed + completion) % 2**64
            yield item, completion, request


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
