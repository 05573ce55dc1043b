"""What callers send and get, as the log has it where that is asked for."""

from dataclasses import dataclass, field

from google.protobuf.message import Message
from rhapsode.v1 import generation_pb2 as pb

MAX_CHARACTERS = 2000


@dataclass(slots=True)
class Transcript:
    """Of one call. Texts of several requests or completions stand below each other."""

    prompt: str = ""
    completions: list[str] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, str]:
        """Cut to `MAX_CHARACTERS`, each."""
        completion = "\n".join(self.completions)
        return {"prompt": self.prompt[:MAX_CHARACTERS], "completion": completion[:MAX_CHARACTERS]}


def prompt_of(request: Message) -> str:
    """What is to be continued, scored or tokenised; empty for other requests."""
    match request:
        case pb.GenerateRequest():
            return _input_of(request)
        case pb.GenerateBatchRequest():
            return "\n".join(_input_of(item.request) for item in request.items)
        case pb.ScoreRequest() if request.HasField("token_ids"):
            return _spelled(request.token_ids)
        case pb.ScoreRequest() | pb.TokenizeRequest():
            return request.text
        case pb.DetokenizeRequest():
            return _spelled(request.token_ids)
    return ""


def _input_of(request: pb.GenerateRequest) -> str:
    match request.WhichOneof("input"):
        case "prompt_token_ids":
            return _spelled(request.prompt_token_ids)
        case "messages":
            return "\n".join(f"{turn.role}: {turn.content}" for turn in request.messages.messages)
    return request.prompt


def _spelled(tokens: pb.TokenIds) -> str:
    return " ".join(map(str, tokens.ids[:MAX_CHARACTERS]))
