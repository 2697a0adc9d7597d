//! Where packages lie, and the names that follow from it.

use super::cache_path;

/// Where packages lie, to name them.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// GOROOT.
    pub goroot: Option<String>,
    /// GOMODCACHE.
    pub module_cache: Option<String>,
    /// Directory and path of the main module.
    pub main: Option<(String, String)>,
}

impl Layout {
    /// Import path of the package in a directory.
    pub fn import_path(&self, directory: &str) -> Option<String> {
        let below = |root: &str| directory.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(rest) = self.goroot.as_ref().and_then(|root| below(&format!("{root}/src")).map(str::to_owned)) {
            return Some(rest.trim_start_matches('/').to_owned()).filter(|path| !path.is_empty());
        }
        if let Some(root) = &self.module_cache
            && let Some((module, rest)) = cache_path::tree_member(directory, root)
        {
            return Some(join(&module.path, rest));
        }
        let (root, module) = self.main.as_ref()?;
        let rest = below(root)?.trim_start_matches('/');
        // With -mod=vendor the vendored packages keep their own paths.
        Some(rest.strip_prefix("vendor/").map_or_else(|| join(module, rest), str::to_owned))
    }

    /// Import path of the package in a directory, and its module where that is known.
    pub fn package(&self, directory: &str) -> Option<(String, Option<String>)> {
        let import_path = self.import_path(directory)?;
        if let Some(root) = &self.module_cache
            && let Some((module, _)) = cache_path::tree_member(directory, root)
        {
            return Some((import_path, Some(module.path)));
        }
        let (root, module) = self.main.as_ref()?;
        let of_main = directory.strip_prefix(root.as_str()).is_some_and(|below| !below.starts_with("/vendor/"));
        Some((import_path, of_main.then(|| module.clone())))
    }
}

fn join(module: &str, rest: &str) -> String {
    if rest.is_empty() { module.to_owned() } else { format!("{module}/{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_name_packages() {
        let layout = Layout {
            goroot: Some("/go".to_owned()),
            module_cache: Some("/mc".to_owned()),
            main: Some(("/w".to_owned(), "example.com/app".to_owned())),
        };
        let name = |directory| layout.import_path(directory);
        assert_eq!(name("/go/src/net/http").as_deref(), Some("net/http"));
        assert_eq!(name("/go/src/vendor/golang.org/x/net/idna").as_deref(), Some("vendor/golang.org/x/net/idna"));
        assert_eq!(name("/mc/github.com/!a/b@v1.0.0/c").as_deref(), Some("github.com/A/b/c"));
        assert_eq!(name("/w").as_deref(), Some("example.com/app"));
        assert_eq!(name("/w/vendor/example.com/v").as_deref(), Some("example.com/v"));
        assert_eq!(name("/work/x"), None);
        let module = |directory| layout.package(directory).and_then(|(_, module)| module);
        assert_eq!(module("/mc/github.com/!a/b@v1.0.0/c").as_deref(), Some("github.com/A/b"));
        assert_eq!(module("/w/x").as_deref(), Some("example.com/app"));
        assert_eq!(module("/go/src/net/http"), None);
        assert_eq!(module("/w/vendor/example.com/v"), None);
    }
}
