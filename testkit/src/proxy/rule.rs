//! Faults: ordered rules over requests and over connections.

use std::{num::NonZeroU64, sync::Mutex, sync::PoisonError, time::Duration};

use anyhow::ensure;
use globset::{GlobBuilder, GlobMatcher};
use hyper::StatusCode;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// What to do to requests that match; the first rule that does decides. A rule without a fault lets requests pass, so it
/// makes an exception to those after it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// How the log names it; the path pattern unless set.
    #[serde(default)]
    pub name: Option<String>,
    /// Which path, percent escapes resolved.
    pub path: Pattern,
    /// Which `Host` (h2: `:authority`), with the port as it stands there.
    #[serde(default)]
    pub host: Option<Pattern>,
    /// Which method, in upper case.
    #[serde(default)]
    pub method: Option<String>,
    /// Which of the requests that match all of the above.
    #[serde(default)]
    pub nth: Nth,
    /// Time from the request's arrival until its status line or HEADERS frame is sent.
    #[serde(default, deserialize_with = "duration")]
    pub first_byte: Duration,
    /// Body bytes per second; the last byte leaves `length / rate` after the headers.
    #[serde(default)]
    pub body_rate_bytes_per_s: Option<NonZeroU64>,
    /// What is answered.
    #[serde(default)]
    pub answer: Answer,
    /// Where the body breaks off.
    #[serde(default)]
    pub cut: Option<Cut>,
}

/// What a request is answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The file, or 404.
    #[default]
    File,
    /// This status and a line of text.
    Status(#[serde(deserialize_with = "status")] StatusCode),
    /// 302 to this URL, in which `{path}` stands for the path of the request as it came.
    Redirect(String),
    /// Nothing, ever; the connection stays open.
    Stall,
}

/// A body that breaks off although its length was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Body bytes that are sent before.
    pub after_bytes: u64,
    /// What happens then.
    pub then: End,
}

/// How a connection or a stream is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The connection ends with FIN and without a TLS `close_notify`.
    Close,
    /// The connection ends with RST.
    Reset,
    /// h2: RST_STREAM, the connection lives on. HTTP/1.1 has no streams: as `Close`.
    ResetStream,
}

/// What to do to connections before the TLS handshake is answered or, without TLS, before the first request is read. The
/// first rule that matches decides. The kernel has accepted the connection by then: a delay here is no connect delay.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionRule {
    /// How the log names it; `connection` unless set.
    pub name: Option<String>,
    /// Which of the connections.
    pub nth: Nth,
    /// Time until the handshake is answered (or, without TLS, the first request is read).
    #[serde(deserialize_with = "duration")]
    pub accept: Duration,
    /// Ends the connection after that time.
    pub end: Option<ConnectionEnd>,
}

/// How a connection is ended before it carried anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionEnd {
    /// FIN.
    Close,
    /// RST.
    Reset,
}

/// Which of the things that match, counted from 1 since the rules were set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nth {
    /// Each.
    #[default]
    Each,
    /// Only this one.
    Only(u64),
    /// The first so many.
    First(u64),
    /// This one and all after it.
    From(u64),
    /// Every so many: 3 is the third, the sixth and so on.
    Every(NonZeroU64),
}

impl Nth {
    pub(crate) fn contains(self, number: u64) -> bool {
        match self {
            Self::Each => true,
            Self::Only(n) => number == n,
            Self::First(n) => number <= n,
            Self::From(n) => number >= n,
            Self::Every(n) => number.is_multiple_of(n.get()),
        }
    }
}

/// A glob: `*` is any text, slashes included, `?` one character, `{a,b}` either, `[ab]` a class. `!` means itself.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    /// Compiles a glob; fails on an unclosed bracket and the like.
    pub fn new(glob: &str) -> Result<Self, globset::Error> {
        let matcher = GlobBuilder::new(glob).literal_separator(false).build()?;
        Ok(Self { text: glob.to_owned(), matcher: matcher.compile_matcher() })
    }

    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.matcher.is_match(text)
    }

    /// The glob.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let glob = String::deserialize(deserializer)?;
        Self::new(&glob).map_err(D::Error::custom)
    }
}

impl Rule {
    /// A rule for the paths that match `glob`, without a fault yet.
    ///
    /// # Panics
    /// When `glob` is none; compile it with [`Pattern::new`] and use [`Rule::matching`] where it comes from outside.
    pub fn on(glob: &str) -> Self {
        match Pattern::new(glob) {
            Ok(pattern) => Self::matching(pattern),
            Err(error) => panic!("{error}"),
        }
    }

    /// A rule for the paths that match `path`, without a fault yet.
    pub fn matching(path: Pattern) -> Self {
        Self {
            name: None,
            path,
            host: None,
            method: None,
            nth: Nth::Each,
            first_byte: Duration::ZERO,
            body_rate_bytes_per_s: None,
            answer: Answer::File,
            cut: None,
        }
    }

    /// Names it in the log.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Only for requests to a host that matches.
    pub fn host(mut self, host: Pattern) -> Self {
        self.host = Some(host);
        self
    }

    /// Only for some of the requests that match.
    pub fn nth(mut self, nth: Nth) -> Self {
        self.nth = nth;
        self
    }

    /// Holds the headers back.
    pub fn first_byte(mut self, delay: Duration) -> Self {
        self.first_byte = delay;
        self
    }

    /// Limits the body's rate; 0 leaves it alone.
    pub fn body_rate(mut self, bytes_per_s: u64) -> Self {
        self.body_rate_bytes_per_s = NonZeroU64::new(bytes_per_s);
        self
    }

    /// Answers with a status.
    ///
    /// # Panics
    /// When `status` is none that ends a request: 200 to 999.
    pub fn status(mut self, status: u16) -> Self {
        match parse_status(status) {
            Ok(status) => self.answer = Answer::Status(status),
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// Answers with a redirect; see [`Answer::Redirect`].
    pub fn redirect(mut self, url: &str) -> Self {
        self.answer = Answer::Redirect(url.to_owned());
        self
    }

    /// Never answers.
    pub fn stall(mut self) -> Self {
        self.answer = Answer::Stall;
        self
    }

    /// Breaks the body off.
    pub fn cut(mut self, after_bytes: u64, then: End) -> Self {
        self.cut = Some(Cut { after_bytes, then });
        self
    }

    /// How the log names this rule.
    pub fn log_name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.path.as_str())
    }
}

impl ConnectionRule {
    /// Holds the handshake of every connection back.
    pub fn accept(delay: Duration) -> Self {
        Self { accept: delay, ..Self::default() }
    }

    /// Ends every connection.
    pub fn end(end: ConnectionEnd) -> Self {
        Self { end: Some(end), ..Self::default() }
    }

    /// Only for some connections.
    pub fn nth(mut self, nth: Nth) -> Self {
        self.nth = nth;
        self
    }

    /// How the log names this rule.
    pub fn log_name(&self) -> &str {
        self.name.as_deref().unwrap_or("connection")
    }
}

/// The rules in force, with their counts.
#[derive(Debug, Default)]
pub(super) struct Rules {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<(Rule, u64)>,
    connections: Vec<(ConnectionRule, u64)>,
}

impl Rules {
    pub(super) fn set_requests(&self, rules: Vec<Rule>) {
        self.with(|state| state.requests = rules.into_iter().map(|rule| (rule, 0)).collect());
    }

    pub(super) fn set_connections(&self, rules: Vec<ConnectionRule>) {
        self.with(|state| state.connections = rules.into_iter().map(|rule| (rule, 0)).collect());
    }

    pub(super) fn for_request(&self, method: &str, host: &str, path: &str) -> Option<Rule> {
        self.with(|state| {
            pick(
                &mut state.requests,
                |rule| rule.nth,
                |rule| {
                    rule.path.is_match(path)
                        && rule.host.as_ref().is_none_or(|pattern| pattern.is_match(host))
                        && rule.method.as_ref().is_none_or(|wanted| wanted == method)
                },
            )
        })
    }

    pub(super) fn for_connection(&self) -> Option<ConnectionRule> {
        self.with(|state| pick(&mut state.connections, |rule| rule.nth, |_| true))
    }

    fn with<T>(&self, use_state: impl FnOnce(&mut State) -> T) -> T {
        use_state(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn pick<R: Clone>(rules: &mut [(R, u64)], nth: impl Fn(&R) -> Nth, is_match: impl Fn(&R) -> bool) -> Option<R> {
    for (rule, seen) in rules {
        if is_match(rule) {
            *seen += 1;
            if nth(rule).contains(*seen) {
                return Some(rule.clone());
            }
        }
    }
    None
}

/// A duration such as `"300ms"` or `"1.5s"`.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(D::Error::custom)
}

/// Reads a duration such as `300ms`, `1.5s` or `2m`; a negative one is an error.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, jiff::Error> {
    Duration::try_from(text.parse::<jiff::SignedDuration>()?)
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StatusCode, D::Error> {
    parse_status(u16::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A status that ends a request: an informational one (1xx) does not.
pub(crate) fn parse_status(status: u16) -> anyhow::Result<StatusCode> {
    ensure!((200..1000).contains(&status), "{status} is not within 200 to 999");
    Ok(StatusCode::from_u16(status)?)
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, time::Duration};

    use super::{Answer, Nth, Pattern, Rule, Rules};

    fn picked(rules: &Rules, host: &str, path: &str) -> Option<String> {
        let rule = rules.for_request("GET", host, path)?;
        Some(rule.log_name().to_owned())
    }

    #[test]
    fn a_star_crosses_slashes_and_an_exclamation_mark_is_itself() {
        let pattern = Pattern::new("*/!azure/*.zip").unwrap();
        assert!(pattern.is_match("/github.com/!azure/sdk/@v/v1.0.0.zip"));
        assert!(!pattern.is_match("/github.com/azure/sdk/@v/v1.0.0.zip"));
        assert!(!pattern.is_match("/github.com/!azure/sdk/@v/v1.0.0.zip.part"));
        assert!(Pattern::new("*.{zip").is_err());
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = Rules::default();
        rules.set_requests(vec![
            Rule::on("/spared/*"),
            Rule::on("*.zip").host(Pattern::new("mirror.test*").unwrap()).named("mirror"),
            Rule::on("*.zip"),
        ]);
        assert_eq!(picked(&rules, "a.test", "/spared/x.zip").unwrap(), "/spared/*");
        assert_eq!(picked(&rules, "mirror.test:8443", "/x.zip").unwrap(), "mirror");
        assert_eq!(picked(&rules, "a.test", "/x.zip").unwrap(), "*.zip");
        assert_eq!(picked(&rules, "a.test", "/x.mod"), None);
    }

    #[test]
    fn numbered_rules_count_what_they_match_and_let_the_rest_pass_on() {
        let rules = Rules::default();
        let three = NonZeroU64::new(3).unwrap();
        rules.set_requests(vec![
            Rule::on("/a").nth(Nth::Only(2)).named("second"),
            Rule::on("/a").nth(Nth::Every(three)).named("third of the rest"),
        ]);
        let names: Vec<_> = (0..7).map(|_| picked(&rules, "", "/a")).collect();
        let name = |name: &str| Some(name.to_owned());
        // The second rule sees all but the request that the first one took.
        assert_eq!(
            names,
            [None, name("second"), None, name("third of the rest"), None, None, name("third of the rest")]
        );
        assert!(Nth::First(2).contains(2) && !Nth::First(2).contains(3));
        assert!(Nth::From(2).contains(3) && !Nth::From(2).contains(1));
    }

    #[test]
    fn rules_read_from_json() {
        let json = r#"{"path": "*.zip", "nth": {"only": 2}, "first_byte": "300ms",
            "body_rate_bytes_per_s": 1000, "answer": {"status": 503},
            "cut": {"after_bytes": 10, "then": "reset_stream"}}"#;
        let rule: Rule = serde_json::from_str(json).unwrap();
        assert_eq!(rule.first_byte, Duration::from_millis(300));
        assert_eq!(rule.answer, Answer::Status(hyper::StatusCode::SERVICE_UNAVAILABLE));
        for wrong in [
            r#"{"path": "[", "first_byte": "1s"}"#,
            r#"{"path": "*", "first_byte": "-1s"}"#,
            r#"{"path": "*", "answer": {"status": 100}}"#,
            r#"{"path": "*", "first_bite": "1s"}"#,
        ] {
            assert!(serde_json::from_str::<Rule>(wrong).is_err(), "{wrong}");
        }
    }
}
