//! The go command's own quoting of flag lists (`cmd/internal/quoted`): fields separated by spaces, a field may be
//! enclosed in single or double quotes, there are no escapes.

/// Splits a list into its fields; `None` for an unterminated quote.
pub(super) fn split(list: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = list.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let field;
        if matches!(first, '\'' | '"') {
            let end = rest[1..].find(first)?;
            field = &rest[1..=end];
            rest = &rest[end + 2..];
        } else {
            let end = rest.find(is_space).unwrap_or(rest.len());
            (field, rest) = rest.split_at(end);
        }
        fields.push(field.to_owned());
        rest = rest.trim_start_matches(is_space);
    }
    Some(fields)
}

/// Joins fields so that [`split`] gives them back; a field with both kinds of quotes cannot be written and is left
/// as it is.
pub(super) fn join(fields: &[String]) -> String {
    let mut list = String::new();
    for field in fields {
        if !list.is_empty() {
            list.push(' ');
        }
        let quote = match field {
            field if !field.is_empty() && !field.contains([' ', '\t', '\n', '\r', '\'', '"']) => "",
            field if !field.contains('\'') => "'",
            field if !field.contains('"') => "\"",
            _ => "",
        };
        list.push_str(quote);
        list.push_str(field);
        list.push_str(quote);
    }
    list
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}
