//! `cargo xtask tidy`: facts about the tree that the compiler does not check.
//!
//! # Shape
//! [`Tree`] holds every file that git knows or would add. Each rule is a function from the tree to
//! [`Finding`]s: [`layers`] (who may use whom), [`rules`] (what a source file may contain), [`papers`]
//! (documents, golden bytes, machine paths).
//!
//! # Always true
//! A rule reads the tree and nothing else, so its test is a tree of a few lines.
//!
//! # Not here
//! Formatting and lints (rustfmt, clippy); the judgement of a reader.

mod layers;
mod papers;
mod rules;
mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use layers::Layers;
use source::Source;

/// One thing to mend, and where.
pub struct Finding {
    path: String,
    line: usize,
    message: String,
    severity: Severity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    /// The tree is not tidy.
    Fail,
    /// Worth a look; the exit status does not change.
    Warn,
}

impl Finding {
    fn fail(path: &str, line: usize, message: String) -> Finding {
        Finding { path: path.to_owned(), line, message, severity: Severity::Fail }
    }

    fn warn(path: &str, line: usize, message: String) -> Finding {
        Finding { path: path.to_owned(), line, message, severity: Severity::Warn }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.severity == Severity::Fail { "error" } else { "warning" };
        write!(f, "{}:{}: {word}: {}", self.path, self.line, self.message)
    }
}

/// The files of the repository.
#[derive(Default)]
struct Tree {
    /// Every `.rs` file.
    sources: Vec<Source>,
    /// Path and text of every `Cargo.toml` under `crates/`.
    manifests: Vec<(String, String)>,
    /// Path and text of every other text file.
    texts: Vec<(String, String)>,
    /// Paths of the files that are not UTF-8, as golden bytes are.
    binaries: Vec<String>,
    /// Names of the crates under `crates/`.
    crates: BTreeSet<String>,
}

impl Tree {
    /// Every file under `root` that git tracks or would add.
    fn read(root: &Path) -> Result<Tree> {
        let listing = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(root)
            .output()
            .context("tidy asks git which files belong to the tree")?;
        if !listing.status.success() {
            bail!("git ls-files failed: {}", String::from_utf8_lossy(&listing.stderr).trim());
        }
        let mut tree = Tree::default();
        for path in listing.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            let path = String::from_utf8_lossy(path);
            // A file that is deleted but still in git's index is not there to check.
            let Ok(bytes) = std::fs::read(root.join(path.as_ref())) else { continue };
            tree.add(&path, bytes);
        }
        tree.mark_test_files();
        Ok(tree)
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>) {
        let Ok(text) = String::from_utf8(bytes) else {
            self.binaries.push(path.to_owned());
            return;
        };
        if let Some(name) = path.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml")) {
            self.crates.insert(name.to_owned());
            self.manifests.push((path.to_owned(), text));
        } else if path.ends_with(".rs") {
            self.sources.push(Source::new(path, &text));
        } else {
            self.texts.push((path.to_owned(), text));
        }
    }

    /// Marks the files of modules that are declared under `#[cfg(test)]`.
    fn mark_test_files(&mut self) {
        let tests: BTreeSet<String> = self.sources.iter().flat_map(Source::test_files).collect();
        for source in &mut self.sources {
            source.only_tests |= tests.contains(&source.path);
        }
    }

    fn has(&self, path: &str) -> bool {
        self.binaries.iter().any(|known| known == path)
            || self.texts.iter().any(|(known, _)| known == path)
            || self.sources.iter().any(|source| source.path == path)
            || self.manifests.iter().any(|(known, _)| known == path)
    }

    /// Every text file, sources included.
    fn all_texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let sources = self.sources.iter().map(|source| (source.path.as_str(), source.text.as_str()));
        let others = self.manifests.iter().chain(&self.texts).map(|(path, text)| (path.as_str(), text.as_str()));
        sources.chain(others)
    }

    #[cfg(test)]
    fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.add(path, text.as_bytes().to_vec());
        }
        tree.mark_test_files();
        tree
    }

    #[cfg(test)]
    fn with_crates<const N: usize>(mut self, names: [&str; N]) -> Tree {
        self.crates.extend(names.map(str::to_owned));
        self
    }
}

/// Every finding in the tree at `root`, sorted by place.
fn findings(root: &Path) -> Result<Vec<Finding>> {
    let tree = Tree::read(root)?;
    let text = std::fs::read_to_string(root.join("layers.toml")).context("layers.toml")?;
    let layers = Layers::parse(&text)?;
    let mut findings = layers::check_crates(&tree, &layers);
    findings.extend(layers::check_modules(&tree, &layers));
    findings.extend(rules::check(&tree, &layers));
    findings.extend(papers::check(&tree, &layers, &papers::machine_paths(root)));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(findings)
}

/// Prints what is not tidy under `root`; an error if anything must be mended.
pub fn run(root: &Path) -> Result<()> {
    let findings = findings(root)?;
    for finding in &findings {
        println!("{finding}");
    }
    let fails = findings.iter().filter(|finding| finding.severity == Severity::Fail).count();
    if fails > 0 {
        bail!("tidy: {fails} to mend, {} warnings", findings.len() - fails);
    }
    println!("tidy: the tree is as layers.toml and the rules say ({} warnings)", findings.len());
    Ok(())
}
