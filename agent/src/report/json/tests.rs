use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::report::fixtures;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

fn assert_valid(validator: &jsonschema::Validator, text: &str) {
    let value: Value = serde_json::from_str(text).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn the_schema_is_a_schema() {
    jsonschema::draft202012::meta::validate(&schema()).unwrap();
}

#[test]
fn every_fixture_is_valid_and_round_trips() {
    let validator = validator();
    for document in [
        fixtures::example(),
        fixtures::killed_in_flight(),
        fixtures::many_commands(),
        fixtures::lossy(),
        fixtures::failure(),
        fixtures::huge_names(),
        fixtures::document(None, vec![fixtures::warm()]),
        fixtures::document(None, Vec::new()),
    ] {
        let text = to_string_pretty(&document);
        assert_valid(&validator, &text);
        assert_eq!(from_slice(text.as_bytes()).unwrap(), document);
    }
}

/// Names of all properties, with the definition that they stand in.
fn declared(schema: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, names: &mut BTreeSet<String>) {
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            names.extend(properties.keys().cloned());
            assert_eq!(value.get("additionalProperties"), Some(&Value::Bool(false)), "not strict: {value}");
        }
        match value {
            Value::Object(object) => object.values().for_each(|value| walk(value, names)),
            Value::Array(array) => array.iter().for_each(|value| walk(value, names)),
            _ => {}
        }
    }
    let mut names = BTreeSet::new();
    walk(schema, &mut names);
    names
}

fn used(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            names.extend(object.keys().cloned());
            object.values().for_each(|value| used(value, names));
        }
        Value::Array(array) => array.iter().for_each(|value| used(value, names)),
        _ => {}
    }
}

#[test]
fn the_schema_declares_no_field_that_is_never_written() {
    let text = to_string_pretty(&fixtures::arbitrary::full());
    assert_valid(&validator(), &text);
    let mut names = BTreeSet::new();
    used(&serde_json::from_str(&text).unwrap(), &mut names);
    let never: Vec<String> = declared(&schema()).difference(&names).cloned().collect();
    assert!(never.is_empty(), "{never:?}");
}

#[test]
fn the_schema_refuses_what_is_not_in_it() {
    let validator = validator();
    let value: Value = serde_json::from_str(&to_string_pretty(&fixtures::example())).unwrap();
    assert!(validator.is_valid(&value));
    let refused = |change: fn(&mut Value)| {
        let mut value = value.clone();
        change(&mut value);
        assert!(!validator.is_valid(&value));
    };
    refused(|value| value["builds"][0]["modules"][0]["pth"] = "x".into());
    refused(|value| value["builds"][0]["modules"][0]["result"] = "lost".into());
    refused(|value| value["builds"][0]["duration_ns"] = (-1).into());
    refused(|value| value["builds"][0]["duration_ns"] = 1.5.into());
    refused(|value| value["builds"][0]["hosts"][0]["errors"]["http_418"] = 1.into());
    refused(|value| value["schema_version"] = 2.into());
    refused(|value| {
        value["builds"][0].as_object_mut().unwrap().remove("complete");
    });
}

#[test]
fn what_is_no_document_says_so() {
    let error = |bytes: &[u8]| from_slice(bytes).unwrap_err().to_string();
    let text = to_string_pretty(&fixtures::example());
    assert_eq!(error(br#"{"schema_version": 2}"#), "this file is version 2, this program reads 1");
    assert_eq!(error(b"{}"), "this JSON has no `schema_version`: it is no report of this program");
    assert_eq!(error(b"[1]"), "this JSON has no `schema_version`: it is no report of this program");
    assert_eq!(
        error(br#"{"schema_version": "1"}"#),
        "this JSON has no `schema_version`: it is no report of this program"
    );
    assert!(error(&text.as_bytes()[..text.len() / 2]).starts_with("this is not JSON: EOF"));
    assert!(error(b"").starts_with("this is not JSON"));
    let shape = error(br#"{"schema_version": 1}"#);
    assert!(shape.starts_with("this file says that it is version 1, and is not: missing field"), "{shape}");
}

#[test]
fn any_document_is_valid_and_round_trips_to_the_same_bytes() {
    let validator = validator();
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) },
    |(document in fixtures::arbitrary::documents())| {
        let text = to_string_pretty(&document);
        assert_valid(&validator, &text);
        let read = from_slice(text.as_bytes()).unwrap();
        prop_assert_eq!(&read, &document);
        prop_assert_eq!(to_string_pretty(&read), text);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = from_slice(&bytes);
    }
}
