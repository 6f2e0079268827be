//! One Rust file as the rules want to see it: its lines, its code without comments and literals, its
//! comments without code, and which lines only tests compile.
//!
//! # Always true
//! `code` and `comments` have the bytes of `text` at the same offsets, with everything else blanked
//! out and line ends kept. So a line number means the same in all three.
//!
//! # Not here
//! A parser. The rules look for words; a lexer that knows comments, strings and characters is enough,
//! and builds in a second.

use std::ops::Range;

/// A Rust source file, cut into code and comments.
pub struct Source {
    /// Relative to the repository, with `/`.
    pub path: String,
    pub text: String,
    pub code: String,
    pub comments: String,
    /// Declared under `#[cfg(test)]` by another file.
    pub only_tests: bool,
    /// Byte ranges of `code` under `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
}

/// What the lexer is inside of.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text,
    RawText { hashes: usize },
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let (code, comments) = split(text);
        let tests = test_ranges(&code);
        Source { path: path.to_owned(), text: text.to_owned(), code, comments, only_tests: false, tests }
    }

    /// The crate this file belongs to, if it is under `crates/`.
    pub fn crate_name(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// The whole file is compiled for tests only.
    pub fn is_test_file(&self) -> bool {
        self.only_tests || ["/tests/", "/testing/", "/examples/"].iter().any(|part| self.path.contains(part))
    }

    /// Files that may hold the modules this one declares under `#[cfg(test)]`.
    pub fn test_files(&self) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let stem = ["/lib", "/main", "/mod"].iter().find_map(|root| stem.strip_suffix(root)).unwrap_or(stem);
        let declared = self.tests.iter().filter_map(|range| self.code[range.clone()].strip_suffix(';'));
        let names = declared.filter_map(|item| item.rsplit_once("mod ").map(|(_, name)| name.trim()));
        names.flat_map(|name| [format!("{stem}/{name}.rs"), format!("{stem}/{name}/mod.rs")]).collect()
    }

    /// The byte at `offset` is compiled for tests only.
    pub fn is_test(&self, offset: usize) -> bool {
        self.is_test_file() || self.tests.iter().any(|range| range.contains(&offset))
    }

    /// Line number of a byte offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
    }

    /// Offsets at which `word` stands in the code, not as part of a longer name.
    pub fn find_word<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, word)
    }
}

/// Offsets at which `word` stands in `text` with no name character on either side.
///
/// A side of `word` that is not itself a name character (as in `foo!`) is not looked at.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let bytes = text.as_bytes();
        let before = at == 0 || !is_name(bytes[at - 1]) || !is_name(word.as_bytes()[0]);
        let end = at + word.len();
        let after = end == bytes.len() || !is_name(bytes[end]) || !is_name(bytes[end - 1]);
        before && after
    })
}

/// Splits `text` into its code and its comments.
fn split(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut comments = Vec::with_capacity(bytes.len());
    let mut inside = Inside::Code;
    let mut at = 0;
    // Copies the next `count` bytes to one side and blanks the other.
    let mut take = |at: &mut usize, count: usize, is_code: bool, is_comment: bool| {
        for &byte in &bytes[*at..(*at + count).min(bytes.len())] {
            let blank = if byte == b'\n' { b'\n' } else { b' ' };
            code.push(if is_code { byte } else { blank });
            comments.push(if is_comment { byte } else { blank });
        }
        *at += count;
    };
    while at < bytes.len() {
        let rest = &bytes[at..];
        match inside {
            Inside::Code if rest.starts_with(b"//") => {
                inside = Inside::LineComment;
                take(&mut at, 2, false, true);
            }
            Inside::Code if rest.starts_with(b"/*") => {
                inside = Inside::BlockComment { depth: 1 };
                take(&mut at, 2, false, true);
            }
            Inside::Code if rest[0] == b'"' => {
                inside = Inside::Text;
                take(&mut at, 1, false, false);
            }
            Inside::Code => match (raw_text_start(bytes, at), character(rest)) {
                (Some(hashes), _) => {
                    inside = Inside::RawText { hashes };
                    take(&mut at, hashes + 2, false, false);
                }
                (None, Some(length)) => take(&mut at, length, false, false),
                (None, None) => take(&mut at, 1, true, false),
            },
            Inside::LineComment => {
                if rest[0] == b'\n' {
                    inside = Inside::Code;
                }
                take(&mut at, 1, false, true);
            }
            Inside::BlockComment { depth } if rest.starts_with(b"*/") => {
                inside = if depth == 1 { Inside::Code } else { Inside::BlockComment { depth: depth - 1 } };
                take(&mut at, 2, false, true);
            }
            Inside::BlockComment { depth } if rest.starts_with(b"/*") => {
                inside = Inside::BlockComment { depth: depth + 1 };
                take(&mut at, 2, false, true);
            }
            Inside::BlockComment { .. } => take(&mut at, 1, false, true),
            Inside::Text if rest[0] == b'\\' => take(&mut at, 2, false, false),
            Inside::Text => {
                if rest[0] == b'"' {
                    inside = Inside::Code;
                }
                take(&mut at, 1, false, false);
            }
            Inside::RawText { hashes } => {
                let end = rest[0] == b'"'
                    && rest[1..].iter().take(hashes).filter(|byte| **byte == b'#').count() == hashes
                    && rest.len() > hashes;
                if end {
                    inside = Inside::Code;
                }
                take(&mut at, if end { hashes + 1 } else { 1 }, false, false);
            }
        }
    }
    let text = |bytes| String::from_utf8(bytes).expect("whole characters are copied or blanked byte by byte");
    (text(code), text(comments))
}

/// The number of `#` if a raw string starts at `at` (`r"`, `r#"`, also after a `b` or `c`).
fn raw_text_start(bytes: &[u8], at: usize) -> Option<usize> {
    let before = if at == 0 { b' ' } else { bytes[at - 1] };
    let name_before = before.is_ascii_alphanumeric() || before == b'_';
    if bytes[at] != b'r' || (name_before && before != b'b' && before != b'c') {
        return None;
    }
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

/// The length of a character literal at the start of `rest`; `None` for a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        let end = rest[3..].iter().take(10).position(|byte| *byte == b'\'')?;
        return Some(end + 4);
    }
    // A character is up to four bytes; a lifetime has no second quote right after its first character.
    let width = match rest.get(1)? {
        0x00..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// The items behind `#[cfg(test)]`, from the attribute to the closing brace or semicolon.
fn test_ranges(code: &str) -> Vec<Range<usize>> {
    let bytes = code.as_bytes();
    let mut ranges = Vec::new();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let mut depth = 0usize;
        let mut end = bytes.len();
        for (offset, &byte) in bytes.iter().enumerate().skip(start) {
            match byte {
                b'{' => depth += 1,
                b'}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        end = offset + 1;
                        break;
                    }
                }
                b';' if depth == 0 => {
                    end = offset + 1;
                    break;
                }
                _ => {}
            }
        }
        ranges.push(start..end);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("crates/x/src/lib.rs", text).code
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e").trim_end(), "a                   e");
        assert_eq!(code(r#"f("x // \" y") + 1"#), "f(           ) + 1");
        assert_eq!(code("r#\"a \" b\"# ; x"), "           ; x");
        assert_eq!(code("br\"dbg\" x"), "b       x");
    }

    #[test]
    fn a_quote_character_does_not_open_a_string() {
        assert_eq!(code("x == '\"' && y"), "x ==     && y");
        assert_eq!(code("x == '\\'' && y"), "x ==      && y");
        assert_eq!(code("'é' 'a'"), "           ".get(..8).unwrap());
    }

    #[test]
    fn a_lifetime_is_code() {
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
    }

    #[test]
    fn test_modules_are_known_to_their_last_brace() {
        let source =
            Source::new("crates/x/src/lib.rs", "fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nfn c() {}\n");
        assert!(!source.is_test(source.text.find("a()").unwrap()));
        assert!(source.is_test(source.text.find("b()").unwrap()));
        assert!(!source.is_test(source.text.find("c()").unwrap()));
    }

    #[test]
    fn files_of_test_modules_are_found_from_their_declaration() {
        let source = Source::new("crates/x/src/lib.rs", "mod a;\n#[cfg(test)]\nmod golden;\n");
        assert_eq!(source.test_files(), ["crates/x/src/golden.rs", "crates/x/src/golden/mod.rs"]);
        let source = Source::new("crates/x/src/a.rs", "#[cfg(test)]\nmod tests;");
        assert_eq!(source.test_files()[0], "crates/x/src/a/tests.rs");
    }

    #[test]
    fn a_word_is_not_found_inside_a_longer_name() {
        assert_eq!(words("dbg!(x) my_dbg!(y)", "dbg!").collect::<Vec<_>>(), [0]);
        assert_eq!(words("std::fs std::fsx", "std::fs").collect::<Vec<_>>(), [0]);
    }
}
