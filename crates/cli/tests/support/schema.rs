//! A validator for the part of JSON Schema that `crates/cli/schemas` uses.
//!
//! A schema that uses anything else is an error, so that no rule is silently ignored.

use serde_json::{Map, Value};

/// Checks `value` against `schema`; the error names the place.
pub fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    check(schema, value, "response")
}

fn check(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let rules = schema.as_object().ok_or(format!("{at}: the schema is no object"))?;
    for (rule, wanted) in rules {
        match rule.as_str() {
            "description" | "properties" | "required" | "additionalProperties" => {}
            "type" => kind(wanted, value, at)?,
            "enum" => {
                if !wanted.as_array().is_some_and(|allowed| allowed.contains(value)) {
                    return Err(format!("{at}: {value} is none of {wanted}"));
                }
            }
            "minimum" => {
                if value.as_f64() < wanted.as_f64() {
                    return Err(format!("{at}: {value} is less than {wanted}"));
                }
            }
            "format" if wanted == "uuid" => {
                if value.as_str().is_none_or(|text| uuid::Uuid::parse_str(text).is_err()) {
                    return Err(format!("{at}: {value} is no UUID"));
                }
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(wanted, item, &format!("{at}[{i}]"))?;
                }
            }
            other => return Err(format!("{at}: the schema uses '{other}', which this validator does not know")),
        }
    }
    match value.as_object() {
        Some(object) => fields(rules, object, at),
        None => Ok(()),
    }
}

fn fields(rules: &Map<String, Value>, object: &Map<String, Value>, at: &str) -> Result<(), String> {
    for name in rules.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !object.contains_key(name.as_str().unwrap_or_default()) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in object {
        match rules.get("properties").and_then(|p| p.get(name)) {
            Some(schema) => check(schema, value, &format!("{at}.{name}"))?,
            None if rules.get("additionalProperties") == Some(&Value::Bool(false)) => {
                return Err(format!("{at}: {name} is not in the schema"));
            }
            None => {}
        }
    }
    Ok(())
}

fn kind(wanted: &Value, value: &Value, at: &str) -> Result<(), String> {
    let names: Vec<&str> = match wanted {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => name.as_str().into_iter().collect(),
    };
    let fits = names.iter().any(|name| match *name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    });
    if fits { Ok(()) } else { Err(format!("{at}: {value} is no {}", names.join(" or "))) }
}
