"""The words under which calls are counted."""

from rhapsode.v1 import generation_pb2, models_pb2

from rhapsode_server.rpc import errors

METHODS = tuple(
    method.name
    for file in (generation_pb2, models_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
"""Of the services for callers."""

OUTCOME_LABELS = tuple(
    sorted({end.label for end in (errors.OK, errors.CANCELLED, errors.EXPIRED, errors.BUG, *errors.OUTCOMES.values())})
)
