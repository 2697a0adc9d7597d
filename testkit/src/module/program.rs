//! A main module that imports a generated set.

use std::{collections::HashSet, fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

use super::ModuleSet;

impl ModuleSet {
    /// Writes `go.mod`, `go.sum` and `main.go` of a program into `dir` (made when missing) that imports every module
    /// which no other one requires, and so needs them all.
    pub fn write_program(&self, dir: &Path) -> Result<()> {
        self.write_program_without_sums(dir)?;
        write(dir, "go.sum", &self.go_sum())
    }

    /// [`ModuleSet::write_program`] without the `go.sum`: with `-mod=mod`, `go` then asks the checksum database.
    pub fn write_program_without_sums(&self, dir: &Path) -> Result<()> {
        let required: HashSet<_> = self.modules().iter().flat_map(|module| &module.requires).collect();
        let mut go_mod = "module example.test/program\n\ngo 1.21\n\nrequire (\n".to_owned();
        let mut imports = String::new();
        let mut calls = String::new();
        for (index, module) in self.modules().iter().enumerate() {
            let name = (module.path.clone(), module.version.clone());
            let comment = if required.contains(&name) {
                " // indirect"
            } else {
                writeln!(imports, "\tm{index} \"{}\"", module.path)?;
                writeln!(calls, "\tn += m{index}.Sum()")?;
                ""
            };
            writeln!(go_mod, "\t{} {}{comment}", module.path, module.version)?;
        }
        go_mod.push_str(")\n");
        let main =
            format!("package main\n\nimport (\n{imports})\n\nfunc main() {{\n\tn := 0\n{calls}\tprintln(n)\n}}\n");
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        write(dir, "go.mod", &go_mod)?;
        write(dir, "main.go", &main)
    }

    /// The lines of a `go.sum` that lists the whole set.
    pub fn go_sum(&self) -> String {
        let mut text = String::new();
        for module in self.modules() {
            let (path, version) = (&module.path, &module.version);
            text.push_str(&format!("{path} {version} {}\n", module.zip_hash));
            text.push_str(&format!("{path} {version}/go.mod {}\n", module.go_mod_hash));
        }
        text
    }
}

fn write(dir: &Path, name: &str, content: &str) -> Result<()> {
    let path = dir.join(name);
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))
}
