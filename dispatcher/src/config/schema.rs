//! The JSON schema of `--schema`: flat objects of enums, booleans, numbers and strings become questions.

use captionfleet_proto::job::{AnswerForm, Question};
use serde_json::{Map, Value};

/// Longest string where the schema names no length.
const USUAL_LENGTH: u32 = 80;
/// Keywords that say nothing about the value.
const REMARKS: [&str; 5] = ["title", "description", "default", "examples", "$comment"];

/// One question for each property, in their order.
///
/// # Errors
/// What the schema has that cannot be filled in.
pub fn questions(text: &str) -> Result<Vec<Question>, String> {
    let schema: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err("must have \"type\": \"object\"".to_owned());
    }
    let properties = schema.get("properties").and_then(Value::as_object).filter(|all| !all.is_empty());
    let properties = properties.ok_or("must have \"properties\"")?;
    let known = ["type", "properties", "required", "additionalProperties", "$schema", "$id"];
    let keywords = schema.as_object().into_iter().flatten();
    if let Some((other, _)) =
        keywords.into_iter().find(|(key, _)| !known.contains(&key.as_str()) && !is_remark(key))
    {
        return Err(format!("\"{other}\" cannot be used here; only flat properties can"));
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    if let Some(other) =
        required.into_iter().find(|name| !name.as_str().is_some_and(|name| properties.contains_key(name)))
    {
        return Err(format!("\"required\" names {other}, which is no property"));
    }
    properties
        .iter()
        .map(|(name, property)| {
            question(name, property).map_err(|problem| format!("property {name:?} {problem}"))
        })
        .collect()
}

fn is_remark(key: &str) -> bool {
    REMARKS.contains(&key)
}

fn question(name: &str, property: &Value) -> Result<Question, String> {
    let property = property.as_object().ok_or("must be an object")?;
    let answer = answer(property)?;
    let mut told = ["description", "title"].into_iter().filter_map(|key| property.get(key)?.as_str());
    let told = told.find(|told| !told.trim().is_empty());
    let words = name.replace(['_', '-'], " ");
    let question = match (told, &answer) {
        (Some(told), _) => told.trim().to_owned(),
        (None, AnswerForm::Boolean) => format!("Is it {words}?"),
        (None, AnswerForm::Integer { .. }) => format!("How many {words} are there?"),
        (None, _) => format!("What is the {words}?"),
    };
    Ok(Question { question, name: Some(name.to_owned()), answer })
}

fn answer(property: &Map<String, Value>) -> Result<AnswerForm, String> {
    let kind = property.get("type").map(|kind| kind.as_str().ok_or("must have one \"type\"")).transpose()?;
    let allow = |keywords: &[&str]| {
        let other = property.keys().find(|key| !keywords.contains(&key.as_str()) && !is_remark(key));
        other.map_or(Ok(()), |other| Err(format!("has {other:?}, which cannot be used with it")))
    };
    if let Some(values) = property.get("enum") {
        allow(&["type", "enum"])?;
        if let Some(kind) = kind.filter(|kind| *kind != "string") {
            return Err(format!("has an \"enum\" of the type {kind:?}; only strings can be chosen from"));
        }
        let texts =
            values.as_array().map(|values| values.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        let texts = texts.flatten().ok_or("has an \"enum\" of other things than strings")?;
        return Ok(AnswerForm::OneOf { values: texts.into_iter().map(str::to_owned).collect() });
    }
    match kind {
        Some("boolean") => allow(&["type"]).map(|()| AnswerForm::Boolean),
        Some("integer") => {
            allow(&["type", "minimum", "maximum"])?;
            let bound = |key: &str| {
                let whole = |value: &Value| value.as_i64().ok_or(format!("has a {key:?} that is not whole"));
                property.get(key).map(whole).transpose()
            };
            Ok(AnswerForm::Integer { minimum: bound("minimum")?, maximum: bound("maximum")? })
        }
        Some("number") => {
            allow(&["type", "minimum", "maximum"])?;
            let bound = |key: &str| {
                let number = |value: &Value| value.as_f64().ok_or(format!("has a {key:?} that is no number"));
                property.get(key).map(number).transpose()
            };
            Ok(AnswerForm::Number { minimum: bound("minimum")?, maximum: bound("maximum")? })
        }
        Some("string") => {
            allow(&["type", "maxLength"])?;
            let length = property.get("maxLength").map_or(Some(USUAL_LENGTH.into()), Value::as_u64);
            let max_length = length.and_then(|length| u32::try_from(length).ok());
            Ok(AnswerForm::Text { max_length: max_length.ok_or("has a \"maxLength\" that is not whole")? })
        }
        other => Err(format!(
            "has the type {}; enum, boolean, integer, number and string can be filled in",
            other.map_or("nothing".to_owned(), |other| format!("{other:?}"))
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn properties_become_questions_in_their_order() {
        let schema = r#"{"type": "object", "required": ["weather"], "properties": {
            "weather": {"enum": ["sunny", "rain"], "description": "What is the weather?"},
            "people": {"type": "integer", "minimum": 0},
            "indoor": {"type": "boolean"},
            "share": {"type": "number", "maximum": 1},
            "main_thing": {"type": "string", "maxLength": 12, "description": " "}}}"#;
        let questions = questions(schema).unwrap();
        let told: Vec<_> =
            questions.iter().map(|one| (one.question.as_str(), one.name.as_deref().unwrap())).collect();
        let expected = [
            ("What is the weather?", "weather"),
            ("How many people are there?", "people"),
            ("Is it indoor?", "indoor"),
            ("What is the share?", "share"),
            ("What is the main thing?", "main_thing"),
        ];
        assert_eq!(told, expected);
        assert_eq!(questions[1].answer, AnswerForm::Integer { minimum: Some(0), maximum: None });
        assert_eq!(questions[3].answer, AnswerForm::Number { minimum: None, maximum: Some(1.0) });
        assert_eq!(questions[4].answer, AnswerForm::Text { max_length: 12 });
    }

    #[test]
    fn what_cannot_be_filled_in_is_named() {
        let fails = |property: &str| {
            let schema = format!(r#"{{"type": "object", "properties": {{"thing": {property}}}}}"#);
            questions(&schema).unwrap_err()
        };
        for property in [
            r#"{"type": "array"}"#,
            r#"{"type": "string", "pattern": "a"}"#,
            r#"{"enum": [1]}"#,
            r#"{"type": ["string", "null"]}"#,
            r#"{"type": "integer", "enum": ["one", "two"]}"#,
            r#"{"type": "integer", "minimum": 0.5}"#,
            "3",
            "{}",
        ] {
            assert!(fails(property).contains("\"thing\""), "{property}: {}", fails(property));
        }
        let required = r#"{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["b"]}"#;
        assert!(questions(required).unwrap_err().contains("\"b\""));
        assert!(questions("[]").is_err() && questions(r#"{"type": "object", "properties": {}}"#).is_err());
        assert!(
            questions(r#"{"type": "object", "oneOf": [], "properties": {"a": {"type": "boolean"}}}"#)
                .is_err()
        );
    }
}
