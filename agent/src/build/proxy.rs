//! GOPROXY as far as a build's host names need it.

use super::{network::TcpConnection, types::Source};

/// The entries of GOPROXY, in order; credentials were removed before they came here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    entries: Vec<Entry>,
    known: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// `name[:port]`.
    Web(String),
    File,
    Direct,
    Off,
}

impl Proxies {
    /// Reads GOPROXY (cmd/go/internal/modfetch/proxy.go, `proxyList`): entries end with `,` or `|`; a missing scheme
    /// is https.
    pub fn parse(setting: Option<&str>) -> Self {
        let Some(setting) = setting else { return Self::default() };
        let entries = setting
            .split([',', '|'])
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .map(|entry| match entry {
                "direct" => Entry::Direct,
                "off" => Entry::Off,
                file if file.starts_with("file:") => Entry::File,
                web => Entry::Web(authority(web)),
            })
            .collect();
        Self { entries, known: true }
    }

    fn web(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Web(host) => Some(host.as_str()),
            Entry::File | Entry::Direct | Entry::Off => None,
        })
    }

    /// The host of the only proxy there is.
    pub fn only_host(&self) -> Option<&str> {
        let mut web = self.web();
        let first = web.next();
        let file = self.entries.contains(&Entry::File);
        first.filter(|_| web.next().is_none() && !file)
    }

    /// The host of a connection as it stands in the URL.
    pub fn host_of(&self, connection: &TcpConnection) -> Option<String> {
        if let Some(host) = connection.host() {
            return Some(host);
        }
        let address = connection.address();
        let default_port = address.strip_suffix(":443").or_else(|| address.strip_suffix(":80"));
        let named = self.web().find(|host| *host == address || Some(*host) == default_port);
        Some(named.map_or(address.as_str(), |host| host).to_owned())
    }

    /// What a fetch of a module file from `host` was asked of. Over HTTP it is a proxy or where a proxy redirected to:
    /// `direct` modules come by version control.
    pub fn source(&self, host: Option<&str>) -> Option<Source> {
        if !self.known {
            return host.map(|_| Source::Proxy);
        }
        let file = self.entries.contains(&Entry::File);
        match (self.web().next(), host) {
            (Some(_), Some(_)) => Some(Source::Proxy),
            (None, _) if file => Some(Source::File),
            (Some(_), None) if !file => Some(Source::Proxy),
            _ => None,
        }
    }
}

/// `name[:port]` of a URL, the scheme's own port left out as Go's resolver of URLs does not add it.
fn authority(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_web_proxy_is_the_host_of_every_fetch() {
        assert_eq!(Proxies::parse(Some("https://proxy.test/x,direct")).only_host(), Some("proxy.test"));
        assert_eq!(Proxies::parse(Some("https://a.test:8443|http://b.test")).only_host(), None);
        assert_eq!(Proxies::parse(Some("https://user:pass@a.test")).only_host(), Some("a.test"));
        assert_eq!(Proxies::parse(Some("off")).only_host(), None);
        assert_eq!(Proxies::parse(None).source(None), None);
        assert_eq!(Proxies::parse(Some("file:///srv/mods")).source(None), Some(Source::File));
    }
}
