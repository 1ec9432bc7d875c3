//! Rust source, reduced to what the checks look at: comments and literals blanked, tests cut out, `use` trees unfolded.

use std::path::Path;

/// The code of one file. Every line stands where it stood, so that offences can name it.
#[derive(Debug)]
pub(crate) struct Source {
    code: String,
}

/// A path that the code names, from its first segment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

impl Source {
    pub(crate) fn read(text: &str) -> Self {
        Self {
            code: without_tests(&without_literals(text)),
        }
    }

    /// Lines that hold code.
    pub(crate) fn code_lines(&self) -> usize {
        self.code.lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// Each place of `needle` that no word character precedes, as a line number.
    pub(crate) fn lines_with(&self, needle: &str) -> Vec<usize> {
        let word = needle.starts_with(|first: char| first.is_alphanumeric());
        let mut lines = Vec::new();
        for (number, line) in self.code.lines().enumerate() {
            for (at, _) in line.match_indices(needle) {
                let before = line.get(..at).and_then(|before| before.chars().last());
                let inside = word && before.is_some_and(|before| before.is_alphanumeric() || before == '_');
                if !inside {
                    lines.push(number + 1);
                }
            }
        }
        lines
    }

    /// Every path that starts with `first`, whether in a `use` tree or in an expression.
    pub(crate) fn paths_from(&self, first: &str) -> Vec<Named> {
        let mut found = Vec::new();
        let mut offset = 0;
        for (number, line) in self.code.lines().enumerate() {
            for (at, _) in line.match_indices(&format!("{first}::")) {
                let before = line.get(..at).and_then(|before| before.chars().last());
                if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':') {
                    continue;
                }
                let mut unfolded = Vec::new();
                unfold(
                    self.code.get(offset + at..).unwrap_or_default(),
                    &mut Vec::new(),
                    &mut unfolded,
                );
                found.extend(unfolded.into_iter().map(|segments| Named {
                    segments,
                    line: number + 1,
                }));
            }
            offset += line.len() + 1;
        }
        found
    }
}

/// Unfolds `a::{b::C, d}` into its paths; returns how many bytes of `text` it took.
fn unfold(text: &str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let depth = prefix.len();
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let space = rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            at += space + 1;
            let mut inner = group;
            while !inner.trim_start().starts_with('}') && !inner.is_empty() {
                let taken = unfold(inner, prefix, found).max(1);
                at += taken;
                inner = inner.get(taken..).unwrap_or_default();
                let trimmed = inner.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
                at += inner.len() - trimmed.len();
                inner = trimmed;
            }
            prefix.truncate(depth);
            return at + 1;
        }
        let word = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        if word > 0 {
            prefix.push(rest.get(..word).unwrap_or_default().to_owned());
        }
        at += space + word;
        let after = text.get(at..).unwrap_or_default();
        if after.starts_with("::") {
            at += 2;
            continue;
        }
        let alias = after.trim_start();
        if alias.starts_with("as ") {
            let end = alias.find([',', '}', ';']).unwrap_or(alias.len());
            at += after.len() - alias.len() + end;
        }
        if prefix.len() > depth {
            found.push(prefix.clone());
        }
        prefix.truncate(depth);
        return at.max(1);
    }
}

/// The module path of a file below `src`: `a/b.rs` is `["a", "b"]`, `lib.rs` is empty.
pub(crate) fn module_of(relative: &Path) -> Vec<String> {
    let mut segments: Vec<String> = relative
        .with_extension("")
        .iter()
        .map(|segment| segment.to_string_lossy().into_owned())
        .collect();
    if segments.last().is_some_and(|last| last == "lib") {
        segments.pop();
    }
    segments
}

/// Whether a file below `src` holds nothing but tests.
pub(crate) fn is_test_file(relative: &Path) -> bool {
    relative.with_extension("").iter().any(|segment| segment == "tests")
}

/// Blanks comments, strings and characters.
fn without_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        let word_before = at > 0
            && bytes
                .get(at - 1)
                .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let (skip, length) = match byte {
            b'/' if rest.starts_with(b"//") => (0, rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())),
            b'/' if rest.starts_with(b"/*") => (0, block_comment(rest)),
            b'"' => (1, string(rest)),
            b'r' | b'b' | b'c' if !word_before => match raw_string(rest) {
                Some(length) => (1, length),
                None => (1, 1),
            },
            b'\'' => (1, character(rest)),
            _ => (1, 1),
        };
        for blanked in out.iter_mut().skip(at + skip).take(length.saturating_sub(skip)) {
            if *blanked != b'\n' {
                *blanked = b' ';
            }
        }
        at += length.max(1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The length of a string literal that starts at its quote.
fn string(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of `r"..."`, `r#"..."#`, `b"..."`, `br"..."`, `c"..."`; `None` when it is none of them.
fn raw_string(text: &[u8]) -> Option<usize> {
    let prefix = text
        .iter()
        .position(|b| !matches!(b, b'r' | b'b' | b'c'))
        .filter(|length| (1..=2).contains(length))?;
    let rest = text.get(prefix..)?;
    let is_raw = text.get(..prefix)?.contains(&b'r');
    if !is_raw {
        return rest.starts_with(b"\"").then(|| prefix + string(rest));
    }
    let hashes = rest.iter().position(|b| *b != b'#')?;
    if rest.get(hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = rest.get(hashes + 1..)?;
    let end = body.windows(close.len()).position(|window| window == close)?;
    Some(prefix + hashes + 1 + end + close.len())
}

/// The length of a character literal, or 1 for a lifetime.
fn character(text: &[u8]) -> usize {
    match text.get(1) {
        Some(b'\\') => text.iter().skip(3).position(|b| *b == b'\'').map_or(1, |end| end + 4),
        Some(first) => {
            let width = match first {
                0..=0x7f => 1,
                0x80..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xff => 4,
            };
            if text.get(1 + width) == Some(&b'\'') {
                2 + width
            } else {
                1
            }
        }
        None => 1,
    }
}

/// Blanks every item under `#[cfg(test)]`. The input has no literals left.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(start) = code.get(from..).and_then(|rest| rest.find(MARK)).map(|at| from + at) {
        let (mut depth, mut end) = (0_usize, code.len());
        for (at, byte) in code.bytes().enumerate().skip(start + MARK.len()) {
            match byte {
                b'{' | b'(' | b'[' => depth += 1,
                b'}' | b')' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 && byte == b'}' {
                        end = at + 1;
                        break;
                    }
                }
                b';' if depth == 0 => {
                    end = at + 1;
                    break;
                }
                _ => {}
            }
        }
        for blanked in out.iter_mut().take(end).skip(start) {
            if *blanked != b'\n' {
                *blanked = b' ';
            }
        }
        from = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        Source::read(text)
            .paths_from("crate")
            .into_iter()
            .map(|named| named.segments.join("::"))
            .collect()
    }

    #[test]
    fn use_trees_are_unfolded() {
        let text = "use crate::{a::{B, c::D as E}, f};\nuse crate::g::*;\nlet x = crate::h::i(1);\n";
        assert_eq!(
            paths(text),
            ["crate::a::B", "crate::a::c::D", "crate::f", "crate::g", "crate::h::i"]
        );
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        let text = "// crate::a::b\n/* crate::c */ let x = \"crate::d\"; let y = r#\"crate::e \" \"#; let z: &'a u8; '\\''; crate::f::g();";
        assert_eq!(paths(text), ["crate::f::g"]);
    }

    #[test]
    fn tests_are_cut_out() {
        let text = "fn a() {}\n#[cfg(test)]\n#[expect(x)]\nmod tests { fn b() { c.unwrap(); } }\n#[cfg(test)]\nuse d::e;\nfn f() {}\n";
        let source = Source::read(text);
        assert_eq!(source.code_lines(), 2);
        assert!(source.lines_with(".unwrap()").is_empty());
    }

    #[test]
    fn a_word_is_found_only_as_a_word() {
        let source = Source::read("my_tokio::x(); tokio::y();\n");
        assert_eq!(source.lines_with("tokio::"), [1]);
    }
}
