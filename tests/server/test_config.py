"""Flags, environment and defaults, all from one table."""

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.__main__ import main
from rhapsode_server.config import ServerConfig, load_config

DEFAULTS = {
    "address": "127.0.0.1:50051",
    "metrics_port": 9464,
    "health_port": None,
    "admin_address": "127.0.0.1:50052",
    "device": "auto",
    "devices": (),
    "replicas": 1,
    "dtype": "auto",
    "quantization": "none",
    "threads": 0,
    "max_sequences": 64,
    "max_batch_tokens": 512,
    "prefix_cache": True,
    "max_queued_requests": 256,
    "max_queued_tokens": 262144,
    "default_max_new_tokens": 256,
    "default_model": "",
    "kv_cache_memory": None,
    "device_memory_fraction": 0.45,
    "poll_interval": 5.0,
    "probation": 600.0,
    "max_error_rate": 0.05,
    "max_slowdown": 3.0,
    "standby": True,
    "load_timeout": 300.0,
    "step_timeout": 30.0,
    "state_dir": None,
    "feedback_dir": None,
    "shutdown_delay": 0.0,
    "drain_timeout": 60.0,
    "openai_address": None,
    "tls_cert": None,
    "tls_key": None,
    "tls_client_ca": None,
    "tls_client_names": (),
    "tokens_file": None,
    "reflection": True,
    "max_connection_age": 1800.0,
    "max_connection_idle": 900.0,
    "max_streams_per_connection": 1024,
    "vllm_metric_names": False,
    "otlp_endpoint": "",
    "log_format": "text",
    "log_prompts": False,
    "termination_log": Path("/dev/termination-log"),
}


def load(*arguments: str, **environment: str) -> ServerConfig:
    return load_config(["--models", "models", *arguments], environment)


def test_the_defaults() -> None:
    assert load() == ServerConfig(models=Path("models"), **DEFAULTS)


def test_the_table_is_complete() -> None:
    assert {each.name for each in fields(ServerConfig)} == {"models", *DEFAULTS}


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("--address", "0.0.0.0:8080", "0.0.0.0:8080"),
        ("--address", "[::1]:0", "[::1]:0"),
        ("--address", "unix:/run/rhapsode.sock", "unix:/run/rhapsode.sock"),
        ("--metrics-port", "0", 0),
        ("--metrics-port", "off", None),
        ("--health-port", "8081", 8081),
        ("--admin-address", "0.0.0.0:8082", "0.0.0.0:8082"),
        ("--admin-address", "unix:/run/admin.sock", "unix:/run/admin.sock"),
        ("--admin-address", "off", None),
        ("--device", "cuda:1", "cuda:1"),
        ("--device", "cpu:4", "cpu:4"),
        ("--devices", "cuda:0,cuda:1", ("cuda:0", "cuda:1")),
        ("--devices", "cpu:2, cpu:2", ("cpu:2", "cpu:2")),
        ("--replicas", "2", 2),
        ("--quantization", "int8", "int8"),
        ("--dtype", "bfloat16", "bfloat16"),
        ("--threads", "2", 2),
        ("--max-queued-requests", "0", 0),
        ("--max-queued-tokens", "1000000", 1_000_000),
        ("--kv-cache-memory", "2GiB", 2 * 2**30),
        ("--kv-cache-memory", "1.5 MB", 1_500_000),
        ("--kv-cache-memory", "4096", 4096),
        ("--device-memory-fraction", "0.9", 0.9),
        ("--device-memory-fraction", "1", 1.0),
        ("--poll-interval", "500ms", 0.5),
        ("--probation", "0s", 0.0),
        ("--max-error-rate", "0.2", 0.2),
        ("--max-slowdown", "1.5", 1.5),
        ("--standby", "off", False),
        ("--standby", "on", True),
        ("--prefix-cache", "off", False),
        ("--load-timeout", "1h", 3600.0),
        ("--step-timeout", "100ms", 0.1),
        ("--state-dir", "state", Path("state")),
        ("--feedback-dir", "shared/feedback", Path("shared/feedback")),
        ("--drain-timeout", "10m", 600.0),
        ("--shutdown-delay", "1.5s", 1.5),
        ("--openai-address", "0.0.0.0:8000", "0.0.0.0:8000"),
        ("--openai-address", "off", None),
        ("--tokens-file", "secrets/tokens", Path("secrets/tokens")),
        ("--reflection", "off", False),
        ("--max-connection-age", "off", None),
        ("--max-connection-idle", "5m", 300.0),
        ("--max-streams-per-connection", "8", 8),
        ("--vllm-metric-names", "on", True),
        ("--otlp-endpoint", "http://127.0.0.1:4317", "http://127.0.0.1:4317"),
        ("--log-format", "json", "json"),
        ("--log-prompts", "on", True),
        ("--termination-log", "end.txt", Path("end.txt")),
    ],
)
def test_flags_and_variables_mean_the_same(flag: str, text: str, value: object) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    variable = f"RHAPSODE_{name.upper()}"
    assert getattr(load(flag, text), name) == value
    assert getattr(load(**{variable: text}), name) == value
    assert getattr(load(flag, text, **{variable: "nonsense"}), name) == value


def test_an_empty_variable_is_an_unset_one() -> None:
    assert load(RHAPSODE_THREADS="", RHAPSODE_METRICS_PORT="") == load()
    assert load_config([], {"RHAPSODE_MODELS": "elsewhere"}).models == Path("elsewhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "two"], "--threads: 'two' is not a whole number"),
        (["--threads", "-1"], "--threads: '-1' is not a whole number"),
        (["--max-sequences", "0"], "--max-sequences: 0 is less than 1"),
        (["--max-batch-tokens", "63"], "--max-batch-tokens: must be at least --max-sequences, 64"),
        (["--metrics-port", "65536"], "--metrics-port: 65536 is not a port; write a number from 0"),
        (["--openai-address", "8000"], "--openai-address: '8000' is not an address; write HOST:PORT"),
        (["--openai-address", "unix:a"], "--openai-address: takes HOST:PORT or off"),
        (["--address", "50051"], "--address: '50051' is not an address; write HOST:PORT"),
        (["--address", "host:65536"], "--address: 'host:65536' is not an address"),
        (["--device", "gpu"], "--device: 'gpu' is not a device; write auto, cpu, cpu:THREADS, cuda"),
        (["--dtype", "int8"], "--dtype: 'int8' is not one of auto, float32, bfloat16, float16"),
        (["--kv-cache-memory", "2Gi"], "--kv-cache-memory: '2Gi' is not a size; write a number with its unit"),
        (["--kv-cache-memory", "0"], "--kv-cache-memory: 0 is less than 1"),
        (["--poll-interval", "5"], "--poll-interval: '5' is not a duration; write a number with its unit"),
        (["--poll-interval", "0s"], "--poll-interval: 0.0 is less than 0.001"),
        (["--log-format", "xml"], "--log-format: 'xml' is not one of text, json"),
        (["--admin-address", "50052"], "--admin-address: '50052' is not an address; write HOST:PORT"),
        (["--device", "cpu:0"], "--device: 'cpu:0' is not a device"),
        (["--devices", "cuda:0,gpu"], "--devices: 'gpu' is not a device; write auto, cpu, cpu:THREADS, cuda or cuda:N"),
        (["--devices", "cuda:0,"], "--devices: '' is not a device"),
        (["--replicas", "0"], "--replicas: 0 is less than 1"),
        (["--quantization", "int4"], "--quantization: 'int4' is not one of none, int8"),
        (["--quantization", "int8", "--device", "cuda:0"], "--quantization: int8 is computed on the CPU only"),
        (["--quantization", "int8", "--devices", "cpu,cuda"], "--quantization: int8 is computed on the CPU only"),
        (["--quantization", "int8", "--dtype", "bfloat16"], "--quantization: int8 is computed beside float32"),
        (["--device", "cpu", "--devices", "cpu:1,cpu:1"], "--devices: takes the place of --device; give one of them"),
        (["--device-memory-fraction", "0"], "--device-memory-fraction: 0.0 is not above 0 and at most 1"),
        (["--device-memory-fraction", "1.1"], "--device-memory-fraction: 1.1 is not above 0 and at most 1"),
        (["--device-memory-fraction", "45%"], "--device-memory-fraction: '45%' is not a number"),
        (["--max-error-rate", "nan"], "--max-error-rate: 'nan' is not a number"),
        (["--max-slowdown", "0.5"], "--max-slowdown: 0.5 is less than 1"),
        (["--max-slowdown", "inf"], "--max-slowdown: 'inf' is not a number; write it such as 3 or 0.05"),
        (["--standby", "yes"], "--standby: 'yes' is neither on nor off"),
        (["--probation", "10"], "--probation: '10' is not a duration"),
        (["--step-timeout", "50ms"], "--step-timeout: 0.05 is less than 0.1"),
        (["--state-dir", " "], "--state-dir: is empty; give a directory"),
        (["--state-dir", __file__], "is a file; give a directory"),
        (["--feedback-dir", __file__], "is a file; give a directory"),
        (["--models", ""], "--models: is empty; give a directory, such as ./models"),
        (["--models", " "], "--models: is empty"),
        (["--models", __file__], "is a file; give a directory"),
        (["--tls-cert", "cert.pem"], "--tls-cert: comes with --tls-key; give both or neither"),
        (["--tls-key", "key.pem"], "--tls-cert: comes with --tls-key; give both or neither"),
        (["--tls-client-ca", "ca.pem"], "--tls-client-ca: needs --tls-cert and --tls-key"),
        (["--tls-client-names", "gateway"], "--tls-client-names: needs --tls-client-ca, which proves the names"),
        (["--tls-client-names", "a,,b"], "--tls-client-names: 'a,,b' has an empty name; write them such as a,b"),
        (["--otlp-endpoint", "collector"], "--otlp-endpoint: 'collector' is not a URL; write it such as http://"),
        (["--max-connection-age", "0s"], "--max-connection-age: 0.0 is less than 0.1"),
        (["--max-streams-per-connection", "0"], "--max-streams-per-connection: 0 is less than 1"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--max-seq", "3"], "unrecognized arguments: --max-seq 3"),
    ],
)
def test_what_is_wrong_names_the_flag_and_exits_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--models", "models", *arguments])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 2


def test_the_working_directory_is_a_model_directory() -> None:
    assert load("--models", ".").models == Path()


def test_models_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config([], {})
    assert caught.value.code == 2
    assert "--models: missing; give --models DIR or set RHAPSODE_MODELS" in capsys.readouterr().err


def test_help_shows_every_flag_with_its_default_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"], {})
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for each in fields(ServerConfig):
        default = "required" if each.name == "models" else "default: "
        assert f"--{each.name.replace('_', '-')}" in shown
        assert f"({default}" in shown
        assert f"RHAPSODE_{each.name.upper()})" in shown
    assert "(default: 5s; RHAPSODE_POLL_INTERVAL)" in shown


@pytest.mark.parametrize(
    ("field", "value"), [("threads", -1), ("drain_timeout", float("nan")), ("poll_interval", float("inf"))]
)
def test_values_are_checked_however_they_come(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')}: "):
        ServerConfig(models=Path("models"), **{field: value})


@pytest.mark.parametrize(
    ("address", "host"), [("0.0.0.0:1", "0.0.0.0"), ("[::]:1", "::"), ("unix:/run/a:b", "127.0.0.1")]
)
def test_the_host_of_the_other_ports(address: str, host: str) -> None:
    assert load("--address", address).host == host


def test_workers_run_on_the_one_device_or_on_several() -> None:
    assert load("--device", "cuda:1").all_devices == ("cuda:1",)
    assert load("--devices", "cpu:1,cpu:3").all_devices == ("cpu:1", "cpu:3")


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(DEFAULTS)), text=st.text(max_size=12) | st.text("0123456789.:,-msGB", max_size=6))
def test_any_text_is_a_value_or_a_message(name: str, text: str) -> None:
    with suppress(SystemExit):
        load(**{f"RHAPSODE_{name.upper()}": text})
