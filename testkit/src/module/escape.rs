//! Go's case encoding of module paths and versions: an upper-case letter is `!` and its lower-case form, so that
//! case-insensitive file systems keep them apart (`golang.org/x/mod/module.EscapePath`).

use std::fmt::Write;

/// The form of a module path or version that stands in URLs and in the module cache.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            write!(out, "!{}", c.to_ascii_lowercase()).expect("writing to a String cannot fail");
        } else {
            out.push(c);
        }
    }
    out
}

/// The module path or version behind an escaped form; `None` where Go refuses it: an upper-case letter, or a `!` that
/// no lower-case letter follows.
pub fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' => match chars.next() {
                Some(next) if next.is_ascii_lowercase() => out.push(next.to_ascii_uppercase()),
                _ => return None,
            },
            c if c.is_ascii_uppercase() => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{escape, unescape};

    #[test]
    fn escapes_as_the_go_documentation_says() {
        // The example of golang.org/ref/mod#goproxy-protocol.
        assert_eq!(escape("github.com/Azure/azure-sdk-for-go"), "github.com/!azure/azure-sdk-for-go");
        assert_eq!(unescape("github.com/!azure/x").unwrap(), "github.com/Azure/x");
    }

    #[test]
    fn refuses_what_no_escaping_makes() {
        assert_eq!(unescape("github.com/Azure"), None);
        assert_eq!(unescape("a!"), None);
        assert_eq!(unescape("a!!b"), None);
        assert_eq!(unescape("a!1"), None);
    }
}
