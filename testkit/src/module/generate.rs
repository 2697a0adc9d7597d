//! Generated module trees: deterministic, of the caller's size and shape, and buildable by a real `go`.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use zip::CompressionMethod;

use super::{
    archive::{File, archive},
    dirhash::{hash_go_mod, hash_zip},
};

/// The commit time in every generated `.info`.
const TIME: &str = "2024-01-02T03:04:05Z";

/// How generated modules require each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// The main module requires them all; they require nothing.
    Fan,
    /// Each requires the next; the main module imports the first.
    Chain,
    /// Each requires up to this many later ones; the main module imports the first. 0 counts as 1.
    Tree(usize),
}

/// What [`ModuleSet::generate`] makes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    /// Number of modules.
    pub modules: usize,
    /// Packages in each module, the root package included; at least 1.
    pub packages: usize,
    /// Functions in each package: what its compilation costs.
    pub functions: usize,
    /// Size in bytes of an incompressible file in each module: what its download costs.
    pub payload_bytes: usize,
    /// Who requires whom.
    pub topology: Topology,
    /// Each module has a program too, its package `program`.
    pub programs: bool,
    /// First elements of every module path. The first needs a dot, or Go takes it for the standard library.
    pub prefix: String,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            modules: 10,
            packages: 2,
            functions: 3,
            payload_bytes: 1 << 10,
            topology: Topology::Fan,
            programs: false,
            prefix: "example.test/gen".to_owned(),
        }
    }
}

impl Shape {
    /// The modules of this shape, to be changed by the caller before [`ModuleSet::build`]. Every third has an upper-case
    /// letter in its path, so that the escaping of paths is always exercised.
    pub fn specs(&self) -> Vec<ModuleSpec> {
        let path = |index: usize| match index % 3 {
            1 => format!("{}/Mod{index:03}", self.prefix),
            _ => format!("{}/mod{index:03}", self.prefix),
        };
        let version = |index: usize| format!("v1.{index}.0");
        (0..self.modules)
            .map(|index| {
                let required = match self.topology {
                    Topology::Fan => 0..0,
                    Topology::Chain => index + 1..index + 2,
                    Topology::Tree(children) => {
                        let children = children.max(1);
                        index * children + 1..(index + 1) * children + 1
                    }
                };
                ModuleSpec {
                    path: path(index),
                    version: version(index),
                    packages: self.packages,
                    functions: self.functions,
                    payload_bytes: self.payload_bytes,
                    program: self.programs,
                    requires: required
                        .take_while(|&index| index < self.modules)
                        .map(|index| (path(index), version(index)))
                        .collect(),
                }
            })
            .collect()
    }
}

/// One module version to generate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModuleSpec {
    /// Module path, unescaped.
    pub path: String,
    /// Version, with its `v`.
    pub version: String,
    /// Packages, the root package included; at least 1.
    pub packages: usize,
    /// Functions in each package.
    pub functions: usize,
    /// Size in bytes of an incompressible file beside the root package.
    pub payload_bytes: usize,
    /// It has a program too, its package `program`, which imports the root package.
    #[serde(default)]
    pub program: bool,
    /// Modules of the same set, as path and version, that the root package imports.
    pub requires: Vec<(String, String)>,
}

/// One generated module version with the files that a proxy serves.
#[derive(Clone, Debug)]
pub struct Module {
    /// Module path, unescaped.
    pub path: String,
    /// Version.
    pub version: String,
    /// Import paths of its packages, the root package first.
    pub packages: Vec<String>,
    /// Modules that it requires itself, as path and version.
    pub requires: Vec<(String, String)>,
    /// `.info`.
    pub info: Bytes,
    /// `.mod`.
    pub go_mod: Bytes,
    /// `.zip`.
    pub zip: Bytes,
    /// `h1:` hash of the zip.
    pub zip_hash: String,
    /// `h1:` hash of the go.mod.
    pub go_mod_hash: String,
}

/// A set of generated modules that requires nothing outside of itself.
#[derive(Clone, Debug)]
pub struct ModuleSet {
    modules: Vec<Module>,
}

impl ModuleSet {
    /// Generates the modules of `shape`; see [`Shape::specs`].
    pub fn generate(shape: &Shape) -> Result<Self> {
        Self::build(&shape.specs())
    }

    /// Generates the modules of `specs`. Fails when one has no package, is there twice, or requires one that is not in
    /// the set, directly or in a circle.
    pub fn build(specs: &[ModuleSpec]) -> Result<Self> {
        let by_name: BTreeMap<_, _> =
            specs.iter().map(|spec| ((spec.path.as_str(), spec.version.as_str()), spec)).collect();
        ensure!(by_name.len() == specs.len(), "a module version is there twice");
        let modules = specs
            .iter()
            .map(|spec| generate(spec, &by_name).with_context(|| format!("{}@{}", spec.path, spec.version)))
            .collect::<Result<_>>()?;
        Ok(Self { modules })
    }

    /// The modules in the order of their specifications.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module version `path@version`.
    pub fn get(&self, path: &str, version: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.path == path && module.version == version)
    }
}

type ByName<'a> = BTreeMap<(&'a str, &'a str), &'a ModuleSpec>;

fn generate(spec: &ModuleSpec, by_name: &ByName<'_>) -> Result<Module> {
    ensure!(spec.packages > 0, "a module has at least one package");
    let ModuleSpec { path, version, .. } = spec;
    let go_mod = go_mod(spec, by_name)?;
    let mut files = vec![File {
        name: "go.mod".to_owned(),
        content: go_mod.clone().into_bytes(),
        compression: CompressionMethod::Deflated,
    }];
    let mut packages = vec![path.clone()];
    packages.extend((1..spec.packages).map(|index| format!("{path}/p{index}")));
    for (index, package) in packages.iter().enumerate() {
        let imports: Vec<&str> = match index {
            0 => {
                let required = spec.requires.iter().map(|(path, _)| path.as_str());
                packages[1..].iter().map(String::as_str).chain(required).collect()
            }
            _ => Vec::new(),
        };
        let directory = package[path.len()..].trim_start_matches('/');
        files.push(File {
            name: match directory {
                "" => "gen.go".to_owned(),
                directory => format!("{directory}/gen.go"),
            },
            content: package_source(index, spec.functions, &imports).into_bytes(),
            compression: CompressionMethod::Deflated,
        });
    }
    if spec.program {
        let source = format!("package main\n\nimport root \"{path}\"\n\nfunc main() {{ println(root.Sum()) }}\n");
        files.push(File {
            name: "program/main.go".to_owned(),
            content: source.into_bytes(),
            compression: CompressionMethod::Deflated,
        });
    }
    if spec.payload_bytes > 0 {
        files.push(File {
            name: "payload.bin".to_owned(),
            content: payload(&format!("{path}@{version}"), spec.payload_bytes),
            compression: CompressionMethod::Stored,
        });
    }
    let zip = archive(path, version, &files)?;
    Ok(Module {
        zip_hash: hash_zip(&zip)?,
        go_mod_hash: hash_go_mod(go_mod.as_bytes()),
        path: path.clone(),
        version: version.clone(),
        packages,
        requires: spec.requires.clone(),
        info: format!("{{\"Version\":\"{version}\",\"Time\":\"{TIME}\"}}").into(),
        go_mod: go_mod.into(),
        zip,
    })
}

/// Module graph pruning (Go 1.17) wants every module that a package below may come from in the `go.mod`, the indirect
/// ones too; with one missing, `go build` would ask the proxy for `go.mod` files of the whole graph.
fn go_mod(spec: &ModuleSpec, by_name: &ByName<'_>) -> Result<String> {
    let mut needed = BTreeMap::new();
    let mut open: Vec<_> = spec.requires.iter().map(|required| (required, 1)).collect();
    while let Some(((path, version), depth)) = open.pop() {
        ensure!(depth <= by_name.len(), "modules require each other in a circle");
        let required = by_name
            .get(&(path.as_str(), version.as_str()))
            .with_context(|| format!("requires {path}@{version}, which is not in the set"))?;
        if needed.insert((path, version), ()).is_none() {
            open.extend(required.requires.iter().map(|next| (next, depth + 1)));
        }
        ensure!((path, version) != (&spec.path, &spec.version), "modules require each other in a circle");
    }
    let mut text = format!("module {}\n\ngo 1.21\n", spec.path);
    for (path, version) in needed.keys() {
        let direct = spec.requires.iter().any(|(p, v)| p == *path && v == *version);
        let comment = if direct { "" } else { " // indirect" };
        write!(text, "\nrequire {path} {version}{comment}\n")?;
    }
    Ok(text)
}

/// A package whose `Sum` calls the `Sum` of every import, so that nothing is unused and everything is linked.
fn package_source(index: usize, functions: usize, imports: &[&str]) -> String {
    let mut text = String::new();
    let name = if index == 0 { "root".to_owned() } else { format!("p{index}") };
    text.push_str(&format!("package {name}\n\nimport (\n"));
    for (index, import) in imports.iter().enumerate() {
        text.push_str(&format!("\ti{index} \"{import}\"\n"));
    }
    text.push_str(")\n\n// Sum adds up what this package and its imports compute.\nfunc Sum() int {\n\tn := 0\n");
    for index in 0..functions {
        text.push_str(&format!("\tn += f{index}(n)\n"));
    }
    for index in 0..imports.len() {
        text.push_str(&format!("\tn += i{index}.Sum()\n"));
    }
    text.push_str("\treturn n\n}\n");
    for index in 0..functions {
        text.push_str(&format!(
            "\nfunc f{index}(n int) int {{\n\tm := map[int]string{{}}\n\tfor i := 0; i < n%7+{index}; i++ {{\n\t\tm[i*{}] += string(rune('a' + i%26))\n\t}}\n\treturn len(m)\n}}\n",
            index + 3
        ));
    }
    text
}

/// `size` bytes that do not compress, the same for the same seed: SplitMix64 from a state that the seed gives.
fn payload(seed: &str, size: usize) -> Vec<u8> {
    let seed = digest(&SHA256, seed.as_bytes());
    let first = seed.as_ref().first_chunk();
    let mut state = u64::from_le_bytes(*first.expect("a SHA-256 has 32 bytes"));
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{ModuleSet, Shape, Topology};

    #[test]
    fn the_same_shape_gives_the_same_bytes() {
        let shape = Shape { modules: 4, topology: Topology::Chain, ..Shape::default() };
        let (a, b) = (ModuleSet::generate(&shape).unwrap(), ModuleSet::generate(&shape).unwrap());
        for (a, b) in a.modules().iter().zip(b.modules()) {
            assert_eq!((&a.zip, &a.go_mod, &a.zip_hash), (&b.zip, &b.go_mod, &b.zip_hash));
        }
    }

    #[test]
    fn a_payload_sets_the_size_of_the_zip() {
        let shape = Shape { modules: 1, payload_bytes: 100_000, ..Shape::default() };
        let set = ModuleSet::generate(&shape).unwrap();
        let size = set.modules()[0].zip.len();
        assert!((100_000..102_000).contains(&size), "{size}");
    }

    #[test]
    fn a_tree_requires_each_module_once() {
        let shape = Shape { modules: 13, topology: Topology::Tree(3), ..Shape::default() };
        let required: usize = shape.specs().iter().map(|spec| spec.requires.len()).sum();
        assert_eq!(required, 12);
    }

    #[test]
    fn circles_and_strangers_are_refused() {
        let mut specs = Shape { modules: 2, topology: Topology::Chain, ..Shape::default() }.specs();
        specs[1].requires = vec![(specs[0].path.clone(), specs[0].version.clone())];
        assert!(ModuleSet::build(&specs).is_err());
        specs[1].requires = vec![("example.test/none".to_owned(), "v1.0.0".to_owned())];
        assert!(ModuleSet::build(&specs).is_err());
    }
}
