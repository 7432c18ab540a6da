"""The JSON Schema of a file of rigs says what its reader says, as far as one key at a time goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from test_config import BAD_FILES, LONG
from yaml_documents import OF_ONE_KEY, agree, load, near, places

from rigsync.config.files import load_rigs, rigs_schema
from rigsync.errors import ConfigError

SCHEMA = rigs_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
FLAT = "cameras:left: 192.168.1.20\nmesoscope: ws://10.0.0.1:8888\n"  # as iblrig's remote_devices.yaml is
EXAMPLE = (Path(__file__).parents[1] / "rigs.example.yaml").read_text(encoding="utf-8")


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("text", [EXAMPLE, LONG, FLAT, "{}", "rigs:\ntiming:\n", "rigs: {1: a, null: {uri: b}}"])
def test_good_files_are_good_for_the_schema(text: str) -> None:
    VALIDATOR.validate(load(text))


def test_it_finds_what_concerns_one_key(tmp_path: Path) -> None:
    path = tmp_path / "rigs.yaml"
    found = set()
    for case, (text, *_) in BAD_FILES.items():
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError) as caught:
            load_rigs(path)
        if all(OF_ONE_KEY.search(error.problem) for error in caught.value.errors):
            found.add(case)
            assert not VALIDATOR.is_valid(load(text)), case
    assert len(found) > 25


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=near(EXAMPLE, SCHEMA, "cameras") | near(FLAT, SCHEMA["else"], "mesoscope") | st.just(LONG))
def test_what_the_reader_takes_the_schema_takes_and_no_more(tmp_path: Path, text: str) -> None:
    agree(load_rigs, VALIDATOR, tmp_path / "rigs.yaml", text)


def test_every_key_is_described() -> None:
    for place, schema in places(SCHEMA["then"], "cameras"):
        assert place == ("rigs", "cameras") or schema["description"].endswith("."), place
