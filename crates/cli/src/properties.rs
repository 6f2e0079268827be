//! Properties on the command line: checked against the tables before anything is sent.

use serde::Serialize;
use types::{Code, Error, Property, check_property, find_property};

use crate::failure::{Failure, Result};
use crate::options::{Names, Pairs};
use crate::table::table;

/// One line of `get-prop`.
#[derive(Serialize)]
struct Row {
    name: String,
    description: String,
    value: String,
}

/// Checks `pairs` against `known`, so that a slip is told before anything is sent.
pub(crate) fn checked(known: &'static [Property], pairs: Pairs, creating: bool) -> Result<Vec<(String, String)>> {
    let check = |(name, value): (String, String)| {
        let property = check_property(known, &name, &value, creating).map_err(|e| property_failure(&e))?;
        Ok((property.name.to_string(), value))
    };
    pairs.0.into_iter().map(check).collect()
}

/// The JSON and the text of `get-prop`: all of `values`, or those that `wanted` names, in the
/// order of the table.
pub(crate) fn shown(
    known: &'static [Property],
    values: &[(String, String)],
    wanted: Option<&Names>,
) -> Result<(serde_json::Value, String)> {
    let mut rows = Vec::new();
    let names: Vec<&str> = match wanted {
        Some(names) => names.0.iter().map(String::as_str).collect(),
        None => known.iter().map(|p| p.name).collect(),
    };
    for name in names {
        let property = find_property(known, name).map_err(|e| property_failure(&e))?;
        let value = values.iter().find(|(n, _)| n == property.name).map_or(property.default, |(_, v)| v);
        rows.push(Row {
            name: property.name.to_string(),
            description: property.title.to_string(),
            value: value.to_string(),
        });
    }
    let lines = rows
        .iter()
        .map(|r| {
            let value = if r.value.is_empty() { "not set".to_string() } else { r.value.clone() };
            vec![format!("{} ({})", r.description, r.name), value]
        })
        .collect();
    let text = table(&["Name", "Value"], lines);
    Ok((serde_json::to_value(rows).expect("rows are plain"), text))
}

fn property_failure(error: &types::PropertyError) -> Failure {
    let remedy = "list properties with `get-prop`";
    Failure::Failed(Error::new(Code::Invalid, error.to_string()).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::PoolProperty;

    #[test]
    fn named_properties_come_in_the_order_asked() {
        let values = [("label".to_string(), "tank".to_string())];
        let wanted = "rd_fac,label".parse().unwrap();
        let (json, text) = shown(PoolProperty::TABLE, &values, Some(&wanted)).unwrap();
        assert_eq!(json[1], serde_json::json!({"name": "label", "description": "Name", "value": "tank"}));
        assert!(text.contains("Redundancy factor (rd_fac)"), "{text}");
    }

    #[test]
    fn a_wrong_property_is_told_before_anything_is_sent() {
        let failure = checked(PoolProperty::TABLE, "lable:x".parse().unwrap(), false).unwrap_err();
        let Failure::Failed(error) = failure else { panic!("a failure") };
        assert!(error.message.contains("did you mean 'label'"), "{}", error.message);
    }
}
