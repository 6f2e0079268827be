//! `docs/format.md` is made from the code: from the tables above the types that are read and written, and from the
//! constants themselves. `UPDATE_FORMAT=1 cargo test -p vos --test format` writes it; a test fails when it is stale.

use std::fmt::Write;
use std::path::PathBuf;

/// Where a table stands.
enum Doc {
    /// Over the whole file.
    Module,
    /// Over the item whose line begins so.
    Item(&'static str),
}

use Doc::{Item, Module};

/// Title, file, doc comment. In the order in which a reader who opens a device meets them.
#[rustfmt::skip]
const SECTIONS: &[(&str, &str, Doc)] = &[
    ("Header of a region", "media/src/header.rs", Item("pub struct RegionHeader")),
    ("Superblock", "media/src/superblock.rs", Item("pub struct Superblock")),
    ("Root blob", "media/src/root.rs", Item("pub struct Root ")),
    ("Root block", "media/src/root.rs", Item("pub struct RootBlock")),
    ("Bitmap page", "media/src/space/bitmap.rs", Item("pub struct BitmapPage")),
    ("Page header", "media/src/page.rs", Item("pub struct PageHeader")),
    ("Map page", "media/src/pages/map.rs", Item("pub struct MapPage")),
    ("Log", "media/src/log/record.rs", Module),
    ("Batch header", "media/src/log/record.rs", Item("pub struct BatchHeader")),
    ("Record header", "media/src/log/record.rs", Item("pub struct RecordHeader")),
    ("Log records", "vos/src/record.rs", Module),
    ("Payloads in log records", "vos/src/record/payload.rs", Module),
    ("Log records of data that moves", "vos/src/record/rewrite.rs", Module),
    ("Log records of copies", "vos/src/record/copy.rs", Module),
    ("Log records of changes", "vos/src/record/change.rs", Module),
    ("Catalog", "vos/src/catalog.rs", Module),
    ("Intents in the catalog", "vos/src/commit.rs", Module),
    ("Standings of placement groups in the catalog", "vos/src/standing.rs", Module),
    ("Sessions in the catalog", "vos/src/sessions.rs", Module),
    ("Page of a session", "vos/src/sessions.rs", Item("struct SessionPage")),
    ("Head of a container", "vos/src/shard.rs", Item("pub(crate) struct Head")),
    ("Node of a tree", "vos/src/node.rs", Module),
    ("Keys", "vos/src/key.rs", Module),
    ("Values", "vos/src/value.rs", Module),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn source(path: &str) -> String {
    let path = root().join("crates").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of a doc comment, without its marks.
fn doc(path: &str, doc: &Doc) -> String {
    let text = source(path);
    let lines: Vec<&str> = text.lines().collect();
    let (mark, lines) = match doc {
        Module => ("//!", lines.iter().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>()),
        Item(item) => {
            let at = lines.iter().position(|line| line.starts_with(item)).unwrap_or_else(|| panic!("{item} in {path}"));
            let above = lines[..at].iter().rev().skip_while(|line| line.starts_with("#["));
            let mut above: Vec<_> = above.take_while(|line| line.starts_with("///")).collect();
            above.reverse();
            ("///", above)
        }
    };
    let strip = |line: &&&str| {
        let line = line.strip_prefix(mark).unwrap_or(line);
        line.strip_prefix(' ').unwrap_or(line).to_owned()
    };
    lines.iter().map(strip).collect::<Vec<_>>().join("\n")
}

/// Doc text as part of a page: headings deeper, links to code as code.
fn as_page(text: &str) -> String {
    let mut out = String::new();
    let mut is_code = false;
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        let line = if !is_code && line.starts_with("# ") { format!("##{line}") } else { line.to_owned() };
        out.push_str(&line.replace("[`", "`").replace("`]", "`"));
        out.push('\n');
    }
    out
}

fn page() -> String {
    let mut out = String::from(
        "# Format of a target's store\n\n\
         Made from the code by `UPDATE_FORMAT=1 cargo test -p vos --test format`; do not edit. Numbers are little-endian \
         unless a table says BE. Version 1.\n\n## Sizes and limits\n\n| constant | value |\n|---|---:|\n",
    );
    let constants: &[(&str, u64)] = &[
        ("format version", media::FORMAT_VERSION.into()),
        ("page version", media::PAGE_VERSION.into()),
        ("bytes of a block", media::BLOCK_BYTES as u64),
        ("bytes of a page", media::PAGE_BYTES as u64),
        ("bytes of a page header", media::PAGE_HEADER_BYTES as u64),
        ("bytes of a page body", media::PAGE_BODY_BYTES as u64),
        ("page ids of a map page", media::MAP_ENTRIES as u64),
        ("blocks of a bitmap page", media::BITMAP_BLOCKS as u64),
        ("bytes of the owner's root", media::ROOT_BYTES_MAX as u64),
        ("bytes of a batch header", media::BATCH_HEADER_BYTES as u64),
        ("bytes of a record header", media::RECORD_HEADER_BYTES as u64),
        ("largest payload of a log record", media::RECORD_BYTES_MAX as u64),
        ("smallest log", media::LOG_BYTES_MIN),
        ("smallest data region", media::DATA_BYTES_MIN),
        ("largest data region", media::DATA_BYTES_MAX),
        ("largest bulk reservation", media::BULK_BYTES_MAX),
        ("pieces of a bulk reservation", media::PIECES_MAX as u64),
        ("longest dkey or akey", types::KEY_BYTES_MAX as u64),
        ("largest value in a leaf", vos::INLINE_BYTES_MAX as u64),
        ("shortest value that is staged", media::STAGED_BYTES_MIN as u64),
        ("bytes under one checksum", types::CHECKSUM_CHUNK_BYTES as u64),
        ("largest value", types::VALUE_BYTES_MAX as u64),
        ("highest array index", types::ARRAY_INDEX_MAX),
        ("akeys of a request", types::AKEYS_PER_REQUEST_MAX as u64),
        ("extents of an akey in a request", types::EXTENTS_PER_AKEY_MAX as u64),
        ("snapshots of a container", vos::SNAPSHOTS_MAX as u64),
    ];
    for (name, value) in constants {
        writeln!(out, "| {name} | {value} |").unwrap();
    }
    for (title, path, place) in SECTIONS {
        write!(out, "\n## {title}\n\n`crates/{path}`\n\n{}", as_page(&doc(path, place))).unwrap();
    }
    out
}

#[test]
fn the_page_is_what_the_code_says() {
    let (path, page) = (root().join("docs/format.md"), page());
    if std::env::var_os("UPDATE_FORMAT").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let stale = written.lines().zip(page.lines()).find(|(old, new)| old != new);
    assert!(
        written == page,
        "docs/format.md is stale, first at {stale:?}: UPDATE_FORMAT=1 cargo test -p vos --test format"
    );
}

/// Each table of offsets begins at 0, and every field begins where the one before ends. (Rows whose place is not a
/// number follow the last that is.)
#[test]
fn tables_have_neither_gaps_nor_overlaps() {
    let mut tables = 0;
    for (title, path, place) in SECTIONS {
        let text = doc(path, place);
        let mut next = None;
        for line in text.lines() {
            if !line.starts_with('|') {
                next = None;
                continue;
            }
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            if cells.get(1) == Some(&"offset") {
                next = Some(0);
                tables += 1;
            }
            let (Some(offset), Some(bytes)) = (
                cells.get(1).and_then(|cell| cell.parse::<u64>().ok()),
                cells.get(2).and_then(|cell| cell.parse::<u64>().ok()),
            ) else {
                continue;
            };
            if let Some(expected) = next {
                assert_eq!(offset, expected, "{title}: {line}");
                next = Some(offset + bytes);
            }
        }
    }
    assert!(tables >= 9, "{tables} tables of offsets were found");
}

/// The numbers of the kinds that the code matches on are those of its table.
#[test]
fn record_kinds_are_those_of_the_table() {
    let text = source("vos/src/record.rs");
    let rows: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ")?.split('|').next().map(|cell| cell.trim().to_owned()))
        .filter(|cell| cell.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    let constants: Vec<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub(crate) const ")?.strip_suffix(';')?.split_once(": u16 = "))
        .map(|(name, number)| format!("{number} {}", name.to_lowercase().replace('_', " ")))
        .collect();
    assert!(constants.len() >= 16, "{constants:?}");
    assert_eq!(rows, constants);
}
