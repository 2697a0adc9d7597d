//! Removes secrets from what people and programs write: URLs, argument lists, error texts.
//!
//! The rules prefer to remove too much. What they cannot know is a secret without a name and without a known form, in
//! the path of a URL for example.

mod definition;

use definition::definitions;

use super::quoted;

/// What stands in the place of a secret.
pub const REDACTED: &str = "REDACTED";

/// Removes user info, query values and the fragment of one URL; a text without `://` is treated as the rest of a URL
/// whose scheme is left out, as GOPROXY permits.
#[must_use]
pub fn url(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let mut clean = String::with_capacity(text.len());
    if let Some(scheme) = scheme {
        clean.push_str(scheme);
        clean.push_str("://");
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (host, tail) = match authority.rsplit_once('@') {
        Some((_, host)) => (host, tail),
        // A password with a raw slash in it: the authority ends too early, and what looks like a port is none.
        None if has_bad_port(authority) => match rest.rsplit_once('@') {
            Some((_, host)) => host.split_at(host.find(['/', '?', '#']).unwrap_or(host.len())),
            None => (REDACTED, ""),
        },
        None => (authority, tail),
    };
    if has_bad_port(host) {
        clean.push_str(REDACTED);
        return clean;
    }
    clean.push_str(host);
    let tail = tail.split('#').next().unwrap_or_default();
    match tail.split_once('?') {
        None => clean.push_str(tail),
        Some((path, query)) => {
            clean.push_str(path);
            clean.push('?');
            let values = query.split('&').map(|part| match part.split_once('=') {
                // How the go command asks a site for its repository; not a secret.
                Some(("go-get", "1")) => "go-get=1".to_owned(),
                Some((key, _)) => format!("{key}={REDACTED}"),
                None if part.is_empty() => String::new(),
                None => REDACTED.to_owned(),
            });
            clean.push_str(&values.collect::<Vec<_>>().join("&"));
        }
    }
    clean
}

/// Whether an authority without user info ends in something after a colon that is no port.
fn has_bad_port(authority: &str) -> bool {
    let after_address = authority.rsplit(']').next().unwrap_or_default();
    match after_address.split_once(':') {
        Some((_, port)) => !port.chars().all(|c| c.is_ascii_digit()),
        None => false,
    }
}

/// Removes secrets from a text: from URLs in it, after names that announce a secret (`token=`, `Authorization:`,
/// `--password x`), the values of `-X name=value`, user info without a scheme, and words that have the form of
/// well-known tokens.
#[must_use]
pub fn text(text: &str) -> String {
    bare_secrets(&named_secrets(&urls(&definitions(text))))
}

/// Removes secrets from an argument list, and from the values of `-ldflags` and `-X`.
#[must_use]
pub fn arguments<S: AsRef<str>>(arguments: &[S]) -> Vec<String> {
    enum Next {
        Ordinary,
        Secret,
        LinkerFlags,
        Definition,
        UserAndPassword,
    }
    let mut next = Next::Ordinary;
    arguments
        .iter()
        .map(|argument| {
            let argument = argument.as_ref();
            let current = std::mem::replace(&mut next, Next::Ordinary);
            match current {
                Next::Secret => return REDACTED.to_owned(),
                Next::LinkerFlags => return linker_flags(argument),
                Next::Definition => return definition(argument),
                Next::UserAndPassword => {
                    return match argument.split_once(':') {
                        Some((user, _)) => format!("{user}:{REDACTED}"),
                        None => text(argument),
                    };
                }
                Next::Ordinary => {}
            }
            let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                return text(argument);
            };
            let dashes = &argument[..argument.len() - flag.len()];
            match flag.split_once('=') {
                Some(("ldflags", value)) => format!("{dashes}ldflags={}", linker_flags(value)),
                Some(("X", value)) => format!("{dashes}X={}", definition(value)),
                Some((name, _)) if is_secret_name(name) => format!("{dashes}{name}={REDACTED}"),
                Some(_) => text(argument),
                None => {
                    next = match flag {
                        "ldflags" => Next::LinkerFlags,
                        "X" => Next::Definition,
                        "u" | "user" => Next::UserAndPassword,
                        name if !name.contains([' ', '\n']) && is_secret_name(name) => Next::Secret,
                        _ => Next::Ordinary,
                    };
                    text(argument)
                }
            }
        })
        .collect()
}

/// Removes secrets from a list of flags in one string, as GOFLAGS holds it.
#[must_use]
pub fn flag_list(list: &str) -> String {
    match quoted::split(list) {
        Some(fields) => quoted::join(&arguments(&fields)),
        None => REDACTED.to_owned(),
    }
}

/// `name=value` after `-X`. A word without `=` is kept: it is a value of another program's `-X`, or an error.
fn definition(argument: &str) -> String {
    match argument.split_once('=') {
        Some((name, _)) => format!("{}={REDACTED}", text(name)),
        None => text(argument),
    }
}

/// The value of `-ldflags`: an optional `pattern=`, then the linker's flags.
fn linker_flags(value: &str) -> String {
    let Some(fields) = quoted::split(value) else { return REDACTED.to_owned() };
    // A quote inside a field does not quote in the go command's syntax; whoever wrote it thought so, and the secret
    // goes on behind the next space.
    let broken = fields.iter().position(|field| field.contains(['\'', '"', '`']));
    let mut clean = arguments(&fields[..broken.unwrap_or(fields.len())]);
    if let Some(first) = clean.first_mut()
        && let Some((pattern, "-X" | "--X")) = fields[0].rsplit_once('=')
    {
        // `-ldflags='all=-X name=value'`: the pattern hides the flag.
        *first = format!("{}=-X", text(pattern));
        if let Some(second) = fields.get(1).filter(|_| broken.is_none_or(|at| at > 1)) {
            clean[1] = definition(second);
        }
    } else if let Some((pattern, assigned)) = fields.first().and_then(|field| field.split_once("=-X="))
        && let Some(first) = clean.first_mut()
    {
        *first = format!("{}=-X={}", text(pattern), definition(assigned));
    }
    // A value with a space that nobody quoted goes on in the next field: no flag of the linker takes two values.
    for index in 1..clean.len() {
        if !fields[index].starts_with('-') && !fields[index - 1].starts_with('-') && !fields[index - 1].ends_with("=-X")
        {
            REDACTED.clone_into(&mut clean[index]);
        }
    }
    if broken.is_some() {
        clean.push(REDACTED.to_owned());
    }
    quoted::join(&clean)
}

/// Replaces each URL in a text by its [`url`].
fn urls(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(colon) = rest.find("://") {
        let start = rest[..colon]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')))
            .map_or(0, |before| before + rest[before..].chars().next().map_or(1, char::len_utf8));
        clean.push_str(&rest[..start]);
        // In quotes a URL ends at the closing quote, whatever is in it; else at white space, or where the next element
        // of a GOPROXY list begins.
        let quote = rest[..start].chars().next_back().filter(|c| matches!(c, '"' | '\'' | '`'));
        let body = &rest[start..];
        let end = match quote.and_then(|quote| body.find(quote)) {
            Some(end) => end,
            None => body.find(|c: char| c.is_whitespace() || c.is_control()).unwrap_or(body.len()),
        };
        let (word, tail) = body.split_at(end);
        clean.push_str(&url_list(word));
        rest = tail;
    }
    clean.push_str(rest);
    clean
}

/// One word that starts with a URL, or a GOPROXY list of them.
fn url_list(word: &str) -> String {
    let mut clean = String::with_capacity(word.len());
    let mut rest = word;
    loop {
        let scheme = rest.find("://").map_or(0, |at| at + 3);
        // The next URL of a list; a comma inside a password does not end it unless a scheme follows.
        let end = rest[scheme..].match_indices([',', '|']).map(|(at, _)| at + scheme).find(|at| {
            let next = &rest[at + 1..];
            let word = &next[..next.find([',', '|']).unwrap_or(next.len())];
            word.contains("://") || matches!(word, "direct" | "off")
        });
        let (one, separator) = match end {
            Some(end) => (&rest[..end], &rest[end..=end]),
            None => (rest, ""),
        };
        clean.push_str(&punctuated_url(one));
        clean.push_str(separator);
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return clean,
        }
    }
}

/// A URL with the punctuation of the sentence around it.
fn punctuated_url(word: &str) -> String {
    let trimmed = word.trim_end_matches([':', ',', ';', '.', ')', ']', '}', '>', '"', '\'', '`', '!']);
    match word.contains("://") {
        true => format!("{}{}", url(trimmed), &word[trimmed.len()..]),
        false => word.to_owned(),
    }
}

/// Replaces what follows a name that announces a secret.
fn named_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if name.is_empty() {
            let c = rest.chars().next().expect("rest is not empty");
            clean.push(c);
            before = Some(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        clean.push_str(name);
        let value = secret_value(name, after, before);
        before = name.chars().next_back();
        rest = after;
        if let Some((lead, length)) = value {
            clean.push_str(&after[..lead]);
            clean.push_str(REDACTED);
            rest = &after[lead + length..];
            before = None;
        }
    }
    clean
}

/// Where the secret stands in `after`, the text behind `name`: bytes before it, bytes of it.
fn secret_value(name: &str, after: &str, before: Option<char>) -> Option<(usize, usize)> {
    let unquoted = after.strip_prefix(['"', '\'']).unwrap_or(after);
    let spaced = unquoted.trim_start_matches([' ', '\t']);
    let separator = spaced.chars().next().filter(|c| matches!(c, '=' | ':'));
    let value = match separator {
        Some('=') if is_secret_name(name) => &spaced[1..],
        // Compilers write `token.go:3:1: …` and `go/token: …`: no header looks like that.
        Some(':') if is_secret_header(name) && !matches!(before, Some('/' | '.')) => &spaced[1..],
        None if name.starts_with('-') && is_secret_name(name) && unquoted.starts_with([' ', '\t']) => unquoted,
        None if (name.eq_ignore_ascii_case("bearer") || name.eq_ignore_ascii_case("basic"))
            && unquoted.starts_with(' ')
            && spaced.chars().take_while(|c| !c.is_whitespace()).count() >= 8 =>
        {
            unquoted
        }
        _ => return None,
    };
    let value = value.trim_start_matches([' ', '\t']);
    let lead = after.len() - value.len();
    let length = match (value.chars().next(), separator) {
        (None, _) => return None,
        (Some(quote @ ('"' | '\'')), _) => {
            let line = value.find('\n').unwrap_or(value.len());
            value[1..line].find(quote).map_or(line, |end| end + 2)
        }
        (_, Some(':')) => value.find('\n').unwrap_or(value.len()),
        // `http.extraHeader=Authorization: Basic …`
        _ if name.to_ascii_lowercase().contains("header") => value.find('\n').unwrap_or(value.len()),
        _ => value.find(char::is_whitespace).unwrap_or(value.len()),
    };
    (length > 0).then_some((lead, length))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Whether a flag, variable or key of this name holds a secret.
fn is_secret_name(name: &str) -> bool {
    const PARTS: [&str; 12] = [
        "token",
        "secret",
        "passw",
        "apikey",
        "authorization",
        "credential",
        "privatekey",
        "accesskey",
        "signature",
        "cookie",
        "extraheader",
        "netrc",
    ];
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    PARTS.iter().any(|part| plain.contains(part))
        || name
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|part| ["auth", "pass", "pwd", "sig", "pat"].iter().any(|word| part.eq_ignore_ascii_case(word)))
}

/// Whether `name:` announces a secret in a header or a sentence.
fn is_secret_header(name: &str) -> bool {
    !name.contains('.')
        && name.split(['-', '_']).any(|part| {
            ["authorization", "token", "password", "passwd", "secret", "cookie", "apikey", "credential", "credentials"]
                .iter()
                .any(|word| part.eq_ignore_ascii_case(word))
                || part.eq_ignore_ascii_case("key") && name.to_ascii_lowercase().contains("api")
        })
}

/// Replaces words that are secrets by their form: tokens of well-known services, `user:password@host`, `token@host:path`.
fn bare_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_delimiter).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        clean.push_str(&bare_secret(word));
        let delimiter = after.chars().next().map_or(0, char::len_utf8);
        clean.push_str(&after[..delimiter]);
        rest = &after[delimiter..];
    }
    clean
}

fn is_delimiter(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | '|' | '=' | ';' | '(' | ')' | '<' | '>')
}

fn bare_secret(word: &str) -> String {
    const PREFIXES: [&str; 12] =
        ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "AKIA", "ASIA", "eyJhbGci"];
    if PREFIXES.iter().any(|prefix| word.len() >= prefix.len() + 12 && word.starts_with(prefix)) {
        return REDACTED.to_owned();
    }
    if word.contains("://") {
        return word.to_owned();
    }
    match word.rsplit_once('@') {
        // `user:password@host`, as GOPROXY and git permit without a scheme.
        Some((user, host)) if user.contains(':') && !host.is_empty() => format!("{REDACTED}@{host}"),
        // `token@host:path` of git; the user that everybody has is no secret.
        Some((user, host)) if !user.contains('/') && !matches!(user, "git" | "hg" | "") && host.contains(':') => {
            format!("{REDACTED}@{host}")
        }
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests;
