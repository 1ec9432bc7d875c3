//! Just enough XML for what UPnP devices send: names and texts of elements without children, in order. Nothing is nested,
//! nothing refers to anything, and no input makes this take more than one pass.

/// One thing met on the way through the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// An element begins. Without prefix.
    Open(&'a str),
    /// An element without children, and its text.
    Leaf(&'a str, String),
}

/// The pieces of a text.
pub(crate) struct Pieces<'a> {
    rest: &'a str,
    /// The element that was opened last, while nothing else was met.
    open: Option<&'a str>,
}

pub(crate) fn pieces(text: &str) -> Pieces<'_> {
    Pieces { rest: text, open: None }
}

/// The text of the first leaf of this name.
pub(crate) fn leaf(text: &str, name: &str) -> Option<String> {
    pieces(text).find_map(|piece| match piece {
        Piece::Leaf(found, value) if found == name => Some(value),
        Piece::Leaf(..) | Piece::Open(_) => None,
    })
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        loop {
            let (before, from_tag) = self.rest.split_once('<')?;
            if let Some(comment) = from_tag.strip_prefix("!--") {
                self.rest = comment.split_once("-->")?.1;
                self.open = None;
                continue;
            }
            let (tag, after) = from_tag.split_once('>')?;
            self.rest = after;
            if tag.starts_with(['?', '!']) {
                continue;
            }
            if let Some(name) = tag.strip_prefix('/') {
                if let Some(open) = self.open.take().filter(|open| *open == local(name)) {
                    return Some(Piece::Leaf(open, unescape(before.trim())));
                }
                continue;
            }
            let name = local(tag);
            if tag.ends_with('/') {
                self.open = None;
                return Some(Piece::Leaf(name, String::new()));
            }
            self.open = Some(name);
            return Some(Piece::Open(name));
        }
    }
}

fn local(tag: &str) -> &str {
    let name = tag.split([' ', '\t', '\r', '\n', '/']).next().unwrap_or_default();
    name.rsplit(':').next().unwrap_or_default()
}

fn unescape(text: &str) -> String {
    // The ampersand last: what it gives is not read again.
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}
