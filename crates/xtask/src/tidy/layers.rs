//! Who may use whom: crate edges from the `Cargo.toml` files, module edges from `crate::` paths.
//!
//! # Shape
//! [`Layers`] is `layers.toml`, decoded. [`check_crates`] compares it with every manifest;
//! [`check_modules`] with the sources of the crates that list a module order.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::source::{Source, words};
use super::{Finding, Tree};

/// `layers.toml`.
pub struct Layers {
    /// Crate name to its row, 0 lowest.
    row: BTreeMap<String, usize>,
    edges: BTreeMap<String, Vec<String>>,
    /// Edges inside a row, as `from -> to`.
    beside: BTreeSet<String>,
    dev_edges: BTreeMap<String, Vec<String>>,
    pub unsafe_crates: Vec<String>,
    /// Path prefixes that may use the operating system directly.
    pub outside_world: Vec<String>,
    /// Crate name to module rows, low to high.
    modules: BTreeMap<String, Vec<Vec<String>>>,
    /// Format or message to the test of its golden bytes, as `path::function`.
    pub golden: BTreeMap<String, String>,
}

const FILE: &str = "layers.toml";

impl Layers {
    pub fn parse(text: &str) -> Result<Layers> {
        let table: Table = text.parse().context("layers.toml is not TOML")?;
        let rows = lists(table.get("rows").context("layers.toml has no `rows`")?)?;
        let row = rows.iter().enumerate().flat_map(|(n, names)| names.iter().map(move |name| (name.clone(), n)));
        let section = |name: &str| -> Result<&Table> {
            table.get(name).and_then(Value::as_table).with_context(|| format!("layers.toml has no [{name}]"))
        };
        let names_by_key = |name: &str| -> Result<BTreeMap<String, Vec<String>>> {
            section(name)?.iter().map(|(key, value)| Ok((key.clone(), strings(value)?))).collect()
        };
        let modules = section("modules")?.iter().map(|(key, value)| Ok((key.clone(), lists(value)?)));
        let golden = section("golden")?.iter().map(|(format, place)| {
            let place = place.as_str().with_context(|| format!("[golden] {format}: path::test is expected"))?;
            Ok((format.clone(), place.to_owned()))
        });
        Ok(Layers {
            row: row.collect(),
            edges: names_by_key("edges")?,
            beside: section("beside")?.keys().cloned().collect(),
            dev_edges: names_by_key("dev-edges")?,
            unsafe_crates: strings(section("unsafe")?.get("crates").context("[unsafe] has no `crates`")?)?,
            outside_world: section("outside-world")?.keys().cloned().collect(),
            modules: modules.collect::<Result<_>>()?,
            golden: golden.collect::<Result<_>>()?,
        })
    }

    /// Why `from` may not depend on `to`; `None` if it may.
    fn refuse(&self, from: &str, to: &str) -> Option<String> {
        let (Some(from_row), Some(to_row)) = (self.row.get(from), self.row.get(to)) else {
            return Some(format!("`{from}` or `{to}` stands in no row of {FILE}"));
        };
        if from_row == to_row && self.beside.contains(&format!("{from} -> {to}")) {
            return None;
        }
        if to_row >= from_row {
            return Some(format!("`{from}` (row {from_row}) uses `{to}` (row {to_row}): edges point down"));
        }
        let listed = self.edges.get(from).is_some_and(|names| names.iter().any(|name| name == to));
        (!listed).then(|| format!("the edge `{from}` -> `{to}` is not in [edges] of {FILE}"))
    }
}

/// The sources in the crate's directory, and those that its `#[path]` attributes take in from elsewhere.
fn of_crate<'t>(tree: &'t Tree, directory: &str) -> impl Iterator<Item = &'t Source> {
    let (own, others): (Vec<_>, Vec<_>) = tree.sources.iter().partition(|source| source.path.starts_with(directory));
    let taken: Vec<&str> = own.iter().flat_map(|source| source.text.split("#[path = \"").skip(1)).collect();
    let taken: Vec<&str> = taken.iter().filter_map(|rest| rest.split('"').next()).collect();
    let is_taken = move |source: &&Source| {
        taken.iter().any(|path| source.path.ends_with(path.trim_start_matches("../")) && path.starts_with("../"))
    };
    own.into_iter().chain(others.into_iter().filter(is_taken))
}

/// Compares every crate's dependencies with the layers, and with what its sources use.
pub fn check_crates(tree: &Tree, layers: &Layers) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in &tree.manifests {
        let manifest: Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.push(Finding::fail(path, 1, format!("not TOML: {error}")));
                continue;
            }
        };
        let Some(name) = manifest.get("package").and_then(|p| p.get("name")).and_then(Value::as_str) else {
            continue;
        };
        let directory = path.trim_end_matches("Cargo.toml");
        for (section, is_dev) in [("dependencies", false), ("dev-dependencies", true), ("build-dependencies", false)] {
            let Some(dependencies) = manifest.get(section).and_then(Value::as_table) else { continue };
            for dependency in dependencies.keys() {
                let line = 1 + text.lines().take_while(|line| !names_dependency(line, dependency)).count();
                let ours = tree.crates.contains(dependency);
                if ours {
                    let up = is_dev && layers.dev_edges.get(name).is_some_and(|names| names.contains(dependency));
                    let refusal = if up { None } else { layers.refuse(name, dependency) };
                    findings.extend(refusal.map(|why| Finding::fail(path, line, why)));
                }
                let ident = dependency.replace('-', "_");
                if !of_crate(tree, directory).any(|source| source.find_word(&ident).next().is_some()) {
                    findings.push(Finding::fail(path, line, format!("`{dependency}` is not used: remove it")));
                }
            }
        }
        if manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool) != Some(true) {
            findings.push(Finding::fail(path, 1, "`[lints] workspace = true` is missing".into()));
        }
    }
    findings
}

/// Holds `crate::` paths to the module order of the crates that list one.
pub fn check_modules(tree: &Tree, layers: &Layers) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (crate_name, rows) in &layers.modules {
        let row: BTreeMap<&str, usize> =
            rows.iter().enumerate().flat_map(|(n, names)| names.iter().map(move |name| (name.as_str(), n))).collect();
        let prefix = format!("crates/{crate_name}/src/");
        let sources: Vec<&Source> = tree.sources.iter().filter(|source| source.path.starts_with(&prefix)).collect();
        let root = sources.iter().find(|source| source.path.ends_with("/src/lib.rs"));
        let reexports = root.map(|root| reexports(&root.code)).unwrap_or_default();
        for source in sources {
            let within = &source.path[prefix.len()..];
            if within == "lib.rs" || within.starts_with("bin/") || source.is_test_file() {
                continue;
            }
            let module = within.split('/').next().unwrap_or(within).trim_end_matches(".rs");
            let Some(&from_row) = row.get(module) else {
                let message = format!("module `{module}` stands in no row of [modules] {crate_name} in {FILE}");
                findings.push(Finding::fail(&source.path, 1, message));
                continue;
            };
            for (at, target) in uses(source, within) {
                let target = reexports.get(target.as_str()).map_or(target.as_str(), |module| module.as_str());
                let Some(&to_row) = row.get(target) else { continue };
                if to_row > from_row && !source.is_test(at) {
                    let message = format!("module `{module}` (row {from_row}) uses `{target}` (row {to_row}) above it");
                    findings.push(Finding::fail(&source.path, source.line(at), message));
                }
            }
        }
    }
    findings
}

/// The line of a manifest that names `dependency`, as `name =` or `name.workspace`.
fn names_dependency(line: &str, dependency: &str) -> bool {
    line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with([' ', '.', '=']))
}

/// First names after the crate's root in every path of `source`: `crate::name`, `crate::{a, b::c}`, and
/// `super::` chains long enough to reach the root.
fn uses(source: &Source, within: &str) -> Vec<(usize, String)> {
    let depth = within.trim_end_matches("/mod.rs").split('/').count();
    let to_root = "super::".repeat(depth);
    let mut found = Vec::new();
    for root in ["crate::", to_root.as_str()] {
        for at in words(&source.code, root) {
            if at >= 2 && &source.code[at - 2..at] == "::" {
                continue; // The tail of a longer `super::` chain.
            }
            let rest = &source.code[at + root.len()..];
            found.extend(first_names(rest).into_iter().map(|name| (at, name)));
        }
    }
    found
}

/// The first path segment in `rest`, or those of each entry of a brace group.
fn first_names(rest: &str) -> Vec<String> {
    let name =
        |text: &str| -> String { text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut names = Vec::new();
    let mut depth = 0usize;
    let mut entry = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&group[entry..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&group[entry..at]));
                entry = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Names that the crate's root re-exports, with the module each comes from.
fn reexports(root: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for at in words(root, "pub use ") {
        let statement = root[at + "pub use ".len()..].split(';').next().unwrap_or_default();
        let path = statement.trim_start_matches("self::").trim_start_matches("crate::");
        let Some((module, rest)) = path.split_once("::") else { continue };
        let names = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|name| !name.is_empty());
        found.extend(names.map(|name| (name.to_owned(), module.to_owned())));
    }
    found
}

fn strings(value: &Value) -> Result<Vec<String>> {
    let list = value.as_array().context("layers.toml: a list of names is expected")?;
    list.iter().map(|item| Ok(item.as_str().context("layers.toml: a name is expected")?.to_owned())).collect()
}

fn lists(value: &Value) -> Result<Vec<Vec<String>>> {
    value.as_array().context("layers.toml: a list of rows is expected")?.iter().map(strings).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: &str = r#"
        rows = [["types"], ["rt", "wire", "codec"], ["net"], ["engine"]]
        [edges]
        net = ["rt"]
        engine = ["net"]
        [beside]
        "wire -> codec" = "why"
        [dev-edges]
        net = ["engine"]
        [unsafe]
        crates = ["rt"]
        [outside-world]
        [modules]
        engine = [["low"], ["middle", "beside"], ["high"]]
        [golden]
    "#;

    fn crate_findings(name: &str, manifest: &str, code: &str) -> Vec<String> {
        let path = format!("crates/{name}/Cargo.toml");
        let manifest = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{manifest}");
        let tree = Tree::of([(path.as_str(), manifest.as_str()), (&format!("crates/{name}/src/lib.rs"), code)])
            .with_crates(["types", "rt", "wire", "codec", "net", "engine"]);
        let layers = Layers::parse(LAYERS).unwrap();
        check_crates(&tree, &layers).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn an_edge_down_that_is_listed_passes() {
        assert_eq!(crate_findings("net", "[dependencies]\nrt.workspace = true", "use rt::now;"), [""; 0]);
    }

    #[test]
    fn an_edge_up_or_beside_is_refused() {
        let found = crate_findings("net", "[dependencies]\nengine.workspace = true", "use engine::X;");
        assert!(found[0].contains("edges point down"), "{found:?}");
        let found = crate_findings("wire", "[dependencies]\nrt.workspace = true", "use rt::X;");
        assert!(found[0].contains("edges point down"), "{found:?}");
    }

    #[test]
    fn an_edge_down_that_is_not_listed_is_refused() {
        let found = crate_findings("engine", "[dependencies]\nrt.workspace = true", "use rt::X;");
        assert!(found[0].contains("not in [edges]"), "{found:?}");
    }

    #[test]
    fn an_edge_beside_needs_its_reason() {
        assert_eq!(crate_findings("wire", "[dependencies]\ncodec.workspace = true", "use codec::X;"), [""; 0]);
    }

    #[test]
    fn a_dev_dependency_goes_up_only_where_listed() {
        assert_eq!(crate_findings("net", "[dev-dependencies]\nengine.workspace = true", "use engine::X;"), [""; 0]);
        let found = crate_findings("wire", "[dev-dependencies]\nengine.workspace = true", "use engine::X;");
        assert!(found[0].contains("edges point down"), "{found:?}");
    }

    #[test]
    fn a_dependency_that_no_source_names_is_refused() {
        let found = crate_findings("net", "[dependencies]\nserde-json = \"1\"", "// serde_json\n");
        assert!(found[0].contains("not used"), "{found:?}");
    }

    fn module_findings(path: &str, code: &str) -> Vec<String> {
        let root = "mod low; mod middle; mod high;\npub use high::{Top, Tip};\npub use low::Bottom;\n";
        let tree = Tree::of([("crates/engine/src/lib.rs", root), (path, code)]);
        let layers = Layers::parse(LAYERS).unwrap();
        check_modules(&tree, &layers).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_module_uses_its_own_row_and_lower_ones() {
        let code = "use crate::low::X;\nuse crate::{beside::Y, middle::Z};\nfn f() { crate::low::g() }";
        assert_eq!(module_findings("crates/engine/src/middle.rs", code), [""; 0]);
    }

    #[test]
    fn a_module_above_is_refused_however_it_is_named() {
        for code in [
            "use crate::high::X;",
            "use crate::{low::{A, B}, high::X};",
            "fn f() { crate::high::g() }",
            "use crate::Top;",
            "use super::high::X;",
        ] {
            assert_eq!(module_findings("crates/engine/src/middle.rs", code).len(), 1, "{code}");
        }
        assert_eq!(module_findings("crates/engine/src/middle/part.rs", "use super::super::high::X;").len(), 1);
        assert_eq!(module_findings("crates/engine/src/middle/mod.rs", "use super::high::X;").len(), 1);
    }

    #[test]
    fn tests_may_look_up() {
        let code = "#[cfg(test)]\nmod tests { use crate::high::X; }";
        assert_eq!(module_findings("crates/engine/src/middle.rs", code), [""; 0]);
    }

    #[test]
    fn a_module_in_no_row_is_refused() {
        assert!(module_findings("crates/engine/src/stray.rs", "")[0].contains("no row"));
    }
}
