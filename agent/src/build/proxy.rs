//! GOPROXY as far as a build's host names need it.

use super::{network::TcpConnection, types::Source};
use crate::{
    host::{Proxy, ProxyTarget},
    ring::call::RequestUrl,
};

/// The entries of GOPROXY, in order; credentials were removed before they came here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    entries: Vec<Entry>,
    known: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// `name[:port]`, and the path that its URLs begin with.
    Web {
        host: String,
        base: String,
    },
    /// A folder, without a slash at its end.
    File {
        path: String,
    },
    Direct,
    Off,
}

impl Proxies {
    /// The entries in their order; absent when GOPROXY is not known.
    pub fn new(proxies: Option<&[Proxy]>) -> Self {
        let Some(proxies) = proxies else { return Self::default() };
        let entries = proxies
            .iter()
            .map(|proxy| match &proxy.target {
                ProxyTarget::Url { url, host } => {
                    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
                    let base = path.map(|(_, path)| format!("/{}", path.trim_end_matches('/'))).unwrap_or_default();
                    Entry::Web { host: host.clone(), base }
                }
                ProxyTarget::File { path } => Entry::File { path: path.trim_end_matches('/').to_owned() },
                ProxyTarget::Direct => Entry::Direct,
                ProxyTarget::Off => Entry::Off,
            })
            .collect();
        Self { entries, known: true }
    }

    fn web(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Web { host, .. } => Some(host.as_str()),
            Entry::File { .. } | Entry::Direct | Entry::Off => None,
        })
    }

    fn folders(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::File { path } => Some(path.as_str()),
            Entry::Web { .. } | Entry::Direct | Entry::Off => None,
        })
    }

    /// A path lies in a folder that is asked as a proxy. It has the layout of a module cache's `cache/download`, and often is
    /// one: of another user, of another machine.
    pub fn serves(&self, path: &str, module_cache: Option<&str>) -> bool {
        let own = module_cache.map(|root| format!("{root}/cache/download"));
        let mut others = self.folders().filter(|folder| own.as_deref() != Some(*folder));
        others.any(|folder| below(path, folder))
    }

    /// The host of the only proxy there is.
    pub fn only_host(&self) -> Option<&str> {
        let mut web = self.web();
        let first = web.next();
        first.filter(|_| web.next().is_none() && self.folders().next().is_none())
    }

    /// Position in GOPROXY of the entry that a URL belongs to, from 0.
    pub fn position(&self, url: &RequestUrl) -> Option<u32> {
        let matches = |entry: &Entry| match entry {
            Entry::Web { host, base } if *host == url.host && !url.is_file() => {
                below(&url.path, base.trim_end_matches('/')).then_some(base.len())
            }
            Entry::File { path } if url.is_file() => below(&url.path, path).then_some(path.len()),
            Entry::Web { .. } | Entry::File { .. } | Entry::Direct | Entry::Off => None,
        };
        let matching = self.entries.iter().enumerate().filter_map(|(at, entry)| Some((matches(entry)?, at)));
        // Of two that fit, the longer base; of equal ones the first.
        let (_, at) = matching.max_by_key(|&(base_bytes, at)| (base_bytes, std::cmp::Reverse(at)))?;
        u32::try_from(at).ok()
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
        let file = self.folders().next().is_some();
        match (self.web().next(), host) {
            (Some(_), Some(_)) => Some(Source::Proxy),
            (None, _) if file => Some(Source::File),
            (Some(_), None) if !file => Some(Source::Proxy),
            _ => None,
        }
    }
}

fn below(path: &str, base: &str) -> bool {
    path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::settings::parse_proxies;

    fn proxies(setting: &str) -> Proxies {
        Proxies::new(Some(&parse_proxies(setting)))
    }

    #[test]
    fn a_url_belongs_to_the_entry_whose_path_it_continues() {
        let list = proxies("https://a.test/one,https://a.test/one/two|https://b.test,direct");
        let position = |url: &str| list.position(&url_of(url));
        assert_eq!(position("https://a.test/one/example.com/m/@v/list"), Some(0));
        assert_eq!(position("https://a.test/one/two/example.com/m/@v/list"), Some(1));
        assert_eq!(position("https://b.test/example.com/m/@v/list"), Some(2));
        assert_eq!(position("https://a.test/oneself/x"), None);
        let list = proxies("file:///srv/mods,https://b.test");
        assert_eq!(list.position(&url_of("file:///srv/mods/example.com/m/@v/list")), Some(0));
        assert_eq!(list.position(&url_of("file:///srv/modsel/x")), None);
        assert_eq!(list.position(&url_of("https://b.test/srv/mods/x")), Some(1));
    }

    fn url_of(text: &str) -> RequestUrl {
        let (_, rest) = text.split_once("://").expect("a URL");
        let (host, path) = rest.split_once('/').expect("a path");
        RequestUrl { text: text.to_owned(), host: host.to_owned(), path: format!("/{path}"), go_get: false }
    }

    #[test]
    fn a_folder_that_is_asked_is_no_module_cache() {
        let list = proxies("file:///srv/cache/download/,https://b.test");
        let file = "/srv/cache/download/example.com/m/@v/v1.0.0.mod";
        assert!(list.serves(file, None) && list.serves(file, Some("/home/u/go/pkg/mod")));
        assert!(!list.serves(file, Some("/srv")), "it asks its own module cache");
        assert!(!list.serves("/home/u/go/pkg/mod/cache/download/example.com/m/@v/v1.0.0.mod", None));
    }

    #[test]
    fn only_one_web_proxy_is_the_host_of_every_fetch() {
        assert_eq!(proxies("https://proxy.test/x,direct").only_host(), Some("proxy.test"));
        assert_eq!(proxies("https://a.test:8443|http://b.test").only_host(), None);
        assert_eq!(proxies("https://user:pass@a.test").only_host(), Some("a.test"));
        assert_eq!(proxies("off").only_host(), None);
        assert_eq!(Proxies::new(None).source(None), None);
        assert_eq!(proxies("file:///srv/mods").source(None), Some(Source::File));
    }
}
