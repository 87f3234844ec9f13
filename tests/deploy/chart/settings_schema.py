"""The part of ``values.schema.json`` that is made from the gateway's own settings: every name, type and bound is theirs.

After a change of a setting: ``make tables``, which runs this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from gateway.settings import Settings
from gateway.settings.models import BROKER_SCHEMES

__all__ = ["CHART", "CHART_OWN", "SECRETS", "settings_schema", "whole_schema"]

CHART = Path(__file__).parents[3] / "helm" / "tidegate"
CHART_OWN = frozenset({"host", "port", "ops_host", "ops_port", "broker", "workers"})
"""Settings that the chart gives itself; a pod has one worker, and more of them are more pods."""
SECRETS = {"api_key": "apiKey", "auth.secret": "authSecret"}
"""Secret settings, and their place under ``secrets`` in the values; a setting that is a secret must be here."""
KEPT = ("enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern")


def settings_schema() -> dict[str, Any]:
    """JSON Schema (draft 7) of ``settings`` in the values."""
    model = Settings.model_json_schema()
    given = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["settings"]
    return _group(model, model["$defs"], given)


def whole_schema() -> dict[str, Any]:
    """``values.schema.json`` with settings and brokers as they are now."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    schema["properties"]["settings"] = settings_schema()
    schemes = "|".join(scheme.replace("+", r"\+") for scheme in BROKER_SCHEMES)
    schema["properties"]["broker"]["properties"]["url"]["pattern"] = f"^({schemes})://"
    return schema


def _group(group: dict[str, Any], definitions: dict[str, Any], given: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    properties = {}
    for name, field in group["properties"].items():
        if "$ref" in field:
            inner = definitions[field["$ref"].rpartition("/")[2]]
            properties[name] = _group(inner, definitions, given.get(name, {}), f"{prefix}{name}.")
        elif prefix + name not in CHART_OWN | SECRETS.keys():
            properties[name] = _field(field)
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    # What the chart's values give a default, its templates rely on: it can be changed, but not removed with null.
    return {**schema, "required": list(given)} if given else schema


def _field(field: dict[str, Any]) -> dict[str, Any]:
    variants = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
    assert len(variants) == 1, f"a setting with several types has no place in the chart's schema yet: {field}"
    (kind,) = variants
    schema: dict[str, Any] = {"description": field["description"].replace("``", "`"), "type": kind["type"]}
    schema |= {key: kind[key] for key in KEPT if key in kind}
    if kind["type"] == "array":
        schema["items"] = {"type": kind["items"]["type"]}
    elif "anyOf" in field and kind["type"] in {"integer", "number"}:  # `off` switches a bound off
        schema |= {"type": [kind["type"], "string"], "pattern": "^off$"}
    return schema


if __name__ == "__main__":
    text = json.dumps(whole_schema(), indent=2, ensure_ascii=False)
    (CHART / "values.schema.json").write_text(text + "\n", encoding="utf-8")
