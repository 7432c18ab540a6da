"""The JSON Schema says what the reader of files says, as far as one key at a time goes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from yaml_documents import OF_ONE_KEY, agree, load, places

from agent.support import EXAMPLE, FULL, LEAST, documents
from agent.test_file import MISTAKES
from rigsync.agent.file import read_agent_file
from rigsync.agent.keys import AGENT
from rigsync.config.schema import document
from rigsync.errors import ConfigError

SCHEMA = document("The file of a rigsync agent", AGENT.schema)
VALIDATOR = Draft202012Validator(SCHEMA)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("text", [EXAMPLE, FULL, LEAST])
def test_good_files_are_good_for_the_schema(text: str) -> None:
    VALIDATOR.validate(load(text))


def test_it_finds_what_concerns_one_key(tmp_path: Path) -> None:
    path = tmp_path / "rig.yaml"
    found = set()
    for case, (text, *_) in MISTAKES.items():
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError) as caught:
            read_agent_file(path)
        # JSON has no NaN: an editor says so before it looks at the schema.
        if all(OF_ONE_KEY.search(error.problem) for error in caught.value.errors) and case != "lease nan":
            found.add(case)
            assert not VALIDATOR.is_valid(load(text)), case
    assert len(found) > 60


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=documents())
def test_what_the_reader_takes_the_schema_takes(tmp_path: Path, text: str) -> None:
    agree(read_agent_file, VALIDATOR, tmp_path / "rig.yaml", text)


def test_every_key_is_described() -> None:
    for place, schema in places(SCHEMA):
        assert schema["description"].endswith("."), place


# ------------------------------------------------------------------------------------------------------- the docs

DOCS = Path(__file__).parents[2] / "docs" / "agent.md"


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    assert read_agent_file(path).name == "left"
    VALIDATOR.validate(load(text))


def test_the_docs_name_every_key() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for place, _ in places(SCHEMA):
        assert f"`{place[-1]}`" in text, place
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    steps = SCHEMA["properties"]["finish"]["properties"]["steps"]["items"]["properties"]
    assert documented <= {*steps, *(place[-1] for place, _ in places(SCHEMA))}
    assert all(f"`{key}`" in text for key in steps)
