//! Documents and data: the index of decisions, links between pages, golden bytes, and nothing that
//! only makes sense on one machine.

use std::path::Path;

use super::layers::Layers;
use super::{Finding, Tree};

pub(super) fn check(tree: &Tree, layers: &Layers, machine_paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_decisions(tree, &mut findings);
    check_links(tree, &mut findings);
    check_golden(tree, layers, &mut findings);
    check_traps(tree, &mut findings);
    check_machine(tree, machine_paths, &mut findings);
    findings
}

const DECISIONS: &str = "docs/decisions/";

/// Every page of `docs/decisions` is in its index.
fn check_decisions(tree: &Tree, findings: &mut Vec<Finding>) {
    let index_path = format!("{DECISIONS}README.md");
    let index = tree.texts.iter().find(|(path, _)| *path == index_path).map_or("", |(_, text)| text.as_str());
    for (path, _) in &tree.texts {
        let Some(name) = path.strip_prefix(DECISIONS).filter(|name| *name != "README.md") else { continue };
        if !index.contains(&format!("({name})")) {
            findings.push(Finding::fail(path, 1, format!("not listed in {index_path}")));
        }
    }
}

/// A relative link in a page leads to a file of the tree.
fn check_links(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        for (n, line) in text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap_or_default();
                if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                    continue;
                }
                let place = join(directory, file);
                let is_directory = tree.all_texts().any(|(known, _)| known.starts_with(&format!("{place}/")));
                if !tree.has(&place) && !is_directory {
                    findings.push(Finding::fail(path, n + 1, format!("the link to `{file}` leads nowhere")));
                }
            }
        }
    }
}

/// `file` as seen from `directory`, without `.` and `..`.
fn join(directory: &str, file: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Every format listed in layers.toml has the test that compares its bytes.
fn check_golden(tree: &Tree, layers: &Layers, findings: &mut Vec<Finding>) {
    let layers_text = tree.texts.iter().find(|(path, _)| path == "layers.toml").map_or("", |(_, text)| text.as_str());
    for (format, place) in &layers.golden {
        let (path, test) = place.split_once("::").unwrap_or((place, ""));
        let source = tree.sources.iter().find(|source| source.path == path);
        let found = source.is_some_and(|source| source.find_word(&format!("fn {test}")).next().is_some());
        if !found {
            let line = 1 + layers_text.lines().take_while(|line| !line.contains(&format!("\"{format}\""))).count();
            findings.push(Finding::fail("layers.toml", line, format!("{format}: no test `{test}` in {path}")));
        }
    }
}

const TRAPS: &str = "docs/traps.md";

/// Every test that the list of traps names exists: `` `crate/path.rs::function` ``, from `crates/`.
fn check_traps(tree: &Tree, findings: &mut Vec<Finding>) {
    let Some((_, text)) = tree.texts.iter().find(|(path, _)| path == TRAPS) else { return };
    for (n, line) in text.lines().enumerate() {
        for (path, test) in line.split('`').skip(1).step_by(2).filter_map(|named| named.split_once(".rs::")) {
            let path = format!("crates/{path}.rs");
            let source = tree.sources.iter().find(|source| source.path == path);
            let found = source.is_some_and(|source| source.find_word(&format!("fn {test}")).next().is_some());
            if !found {
                findings.push(Finding::fail(TRAPS, n + 1, format!("no test `{test}` in {path}")));
            }
        }
    }
}

/// Paths that only exist on the machine of whoever wrote them: home directories and the parent of this
/// checkout.
pub(super) fn machine_paths(root: &Path) -> Vec<String> {
    // Spelled apart, so that this page does not find itself.
    let mut paths = vec![concat!("/ro", "ot/").to_owned(), concat!("/Us", "ers/").to_owned()];
    paths.extend(std::env::var("HOME").ok().map(|home| format!("{}/", home.trim_end_matches('/'))));
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    paths.extend(root.parent().map(|parent| format!("{}/", parent.display())));
    // A checkout directly under a directory every machine has says nothing about the machine.
    paths.retain(|path| {
        !matches!(path.as_str(), "/" | "//" | "/tmp/" | "/home/" | "/mnt/" | "/opt/" | "/srv/" | "/usr/src/")
    });
    paths.sort();
    paths.dedup();
    paths
}

/// The registry every lock file of this tree names.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn check_machine(tree: &Tree, machine_paths: &[String], findings: &mut Vec<Finding>) {
    for (path, text) in tree.all_texts() {
        for (n, line) in text.lines().enumerate() {
            if let Some(found) = machine_paths.iter().find(|machine| line.contains(machine.as_str())) {
                findings.push(Finding::fail(path, n + 1, format!("`{found}` is a path of one machine")));
            }
            let source = line.strip_prefix("source = \"").and_then(|rest| rest.strip_suffix('"'));
            if path.ends_with("Cargo.lock") && source.is_some_and(|source| source != REGISTRY) {
                findings.push(Finding::fail(path, n + 1, "a registry other than crates.io".into()));
            }
            let is_config = path.ends_with(".toml") && !path.ends_with("layers.toml");
            if is_config && (line.contains("replace-with") || line.starts_with("[registr")) {
                findings.push(Finding::fail(path, n + 1, "a registry of one machine".into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<const N: usize>(files: [(&str, &str); N]) -> Vec<String> {
        let layers = "rows = []\n[edges]\n[beside]\n[dev-edges]\n[unsafe]\ncrates = []\n\
                      [outside-world]\n[modules]\n[golden]\nhello = \"crates/wire/src/hello.rs::bytes_are_golden\"\n";
        let hello = ("crates/wire/src/hello.rs", "fn bytes_are_golden() {}");
        let tree = Tree::of(files.into_iter().chain([hello]));
        let layers = Layers::parse(layers).unwrap();
        let machine = ["/place/of/mine/".to_owned()];
        check(&tree, &layers, &machine).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_decision_is_in_the_index() {
        let page = ("docs/decisions/0001-a.md", "# A\n");
        assert!(found([page, ("docs/decisions/README.md", "")])[0].contains("not listed"));
        assert_eq!(found([page, ("docs/decisions/README.md", "[a](0001-a.md)")]), [""; 0]);
    }

    #[test]
    fn a_link_leads_somewhere() {
        let page = ("docs/a.md", "see [b](../README.md#top), [c](https://example.org), [d](gone.md)");
        let found = found([page, ("README.md", "")]);
        assert_eq!(found, ["docs/a.md:1: error: the link to `gone.md` leads nowhere"]);
    }

    #[test]
    fn a_format_has_the_test_of_its_bytes() {
        assert_eq!(found([]), [""; 0]);
        assert!(found([("crates/wire/src/hello.rs", "fn other() {}")])[0].contains("no test `bytes_are_golden`"));
    }

    #[test]
    fn a_trap_names_a_test_that_exists() {
        let row = |test: &str| format!("| torn | `wire/src/hello.rs::{test}` |\n| never | `why`, there is none |\n");
        assert_eq!(found([("docs/traps.md", row("bytes_are_golden").as_str())]), [""; 0]);
        let missing = found([("docs/traps.md", row("another").as_str())]);
        assert_eq!(missing, ["docs/traps.md:1: error: no test `another` in crates/wire/src/hello.rs"]);
        assert!(found([("docs/traps.md", "`wire/src/gone.rs::test`")])[0].contains("wire/src/gone.rs"));
    }

    #[test]
    fn a_path_of_one_machine_is_found_in_any_text() {
        assert!(found([("README.md", "cd /place/of/mine/x")])[0].contains("README.md:1"));
    }

    #[test]
    fn a_lock_file_names_only_the_public_registry() {
        let line = format!("source = \"{REGISTRY}\"\n");
        assert_eq!(found([("Cargo.lock", line.as_str())]), [""; 0]);
        assert!(found([("Cargo.lock", "source = \"sparse+http://mirror/\"")])[0].contains("crates.io"));
    }
}
