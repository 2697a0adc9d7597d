//! Every JSON that a test makes fits the committed schema.

use std::sync::LazyLock;

use gobuild_trace::report::json;

/// Panics unless `text` is JSON that fits the committed schema.
pub fn assert_valid(text: &str, context: &str) {
    static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        let schema = serde_json::from_str(json::SCHEMA).expect("the schema is JSON");
        jsonschema::draft202012::new(&schema).expect("the schema is one")
    });
    let value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}\n{context}"));
    let errors: Vec<String> =
        VALIDATOR.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{context}");
}
