#!/bin/sh
# A tour of the service from a shell. The server describes itself by reflection: no .proto file is needed.
set -eu
ADDRESS=${RHAPSODE_ADDRESS:-127.0.0.1:50051}

# grpcurl where it is installed, else `buf curl`, which takes the same requests.
call() {
    echo "== $1 $2"
    if command -v grpcurl > /dev/null; then
        grpcurl -plaintext -d "$2" "$ADDRESS" "rhapsode.v1.$1"
    else
        buf curl --protocol grpc --http2-prior-knowledge -d "$2" "http://$ADDRESS/rhapsode.v1.$1"
    fi
}

call ModelService/ListModels '{}'

call GenerationService/Generate '{"prompt": "The sea", "sampling": {"temperature": 0.8, "seed": 7},
    "stopping": {"max_new_tokens": 16}}'

call GenerationService/GenerateStream '{"prompt": "The sea", "sampling": {"temperature": 0.8, "seed": 7},
    "stopping": {"max_new_tokens": 4}}'

call GenerationService/Generate '{"prompt": "Is the sea wide?", "constraint": {"choices": {"texts": ["yes", "no"]}}}'

call GenerationService/GenerateBatch '{"seed": 7, "items": [
    {"request": {"prompt": "The sea", "stopping": {"max_new_tokens": 4}}, "num_completions": 2},
    {"request": {"prompt": "The moon", "stopping": {"max_new_tokens": 4}}}]}'

call GenerationService/Score '{"text": "The sea is wide", "top_logprobs": 1}'

call GenerationService/Tokenize '{"text": "The sea"}'

# What is wrong with a request is said field by field.
call GenerationService/Generate '{"prompt": "The sea", "sampling": {"top_p": 2}}' || echo "refused, as it should be"
