//! Who descends from whom, read from `/proc` (S-43).

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Pid, Signal};

/// Sends each of `signals` to every living descendant of `root`.
pub(super) fn signal_descendants(root: Pid, signals: &[Signal]) {
    for pid in descendants(root.as_raw_pid(), &read_parents()) {
        if let Some(pid) = Pid::from_raw(pid) {
            for &signal in signals {
                // A process that ended meanwhile is what we want.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }
}

/// Children of `parent` that are not in `known`.
#[cfg(target_os = "linux")]
pub(super) fn strange_children(parent: i32, known: &BTreeSet<i32>) -> Vec<i32> {
    let parents = read_processes(true);
    parents
        .into_iter()
        .filter(|(pid, of)| *of == parent && !known.contains(pid))
        .map(|(pid, _)| pid)
        .collect()
}

/// All below `root`, nearest first.
fn descendants(root: i32, parents: &BTreeMap<i32, i32>) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (&pid, &parent) in parents {
        children.entry(parent).or_default().push(pid);
    }
    let (mut found, mut seen, mut at) = (Vec::new(), BTreeSet::from([root]), 0);
    let mut next = root;
    loop {
        for &child in children.get(&next).into_iter().flatten() {
            if seen.insert(child) {
                found.push(child);
            }
        }
        let Some(&pid) = found.get(at) else { return found };
        next = pid;
        at += 1;
    }
}

fn read_parents() -> BTreeMap<i32, i32> {
    read_processes(false)
}

/// Process id to parent's id, of all that live (and of zombies when asked for).
fn read_processes(zombies: bool) -> BTreeMap<i32, i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        let (state, parent) = parse_stat(&stat)?;
        (zombies || !matches!(state, b'Z' | b'X')).then_some((pid, parent))
    };
    entries.filter_map(read).collect()
}

/// The session that a process belongs to.
#[cfg(target_os = "linux")]
pub(super) fn session(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // State, parent, group, session.
    fields(&stat)?.nth(3)?.parse().ok()
}

/// State and parent from a line of `/proc/PID/stat`.
fn parse_stat(stat: &[u8]) -> Option<(u8, i32)> {
    let mut fields = fields(stat)?;
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// What follows the name, which stands in brackets and may hold anything.
fn fields(stat: &[u8]) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    Some(
        std::str::from_utf8(stat.get(after_name..)?)
            .ok()?
            .split_ascii_whitespace(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_confuse() {
        assert_eq!(parse_stat(b"12 (a) S 1 (b) R 77 12 12 0"), Some((b'R', 77)));
        assert_eq!(parse_stat(b"12 (sh) S 3 12 12 0 -1"), Some((b'S', 3)));
        assert_eq!(parse_stat(b"12 (sh"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn descendants_are_found_at_every_depth_and_once() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (9, 8), (8, 9)]);
        assert_eq!(descendants(2, &parents), [3, 4]);
        assert_eq!(descendants(1, &parents), [2, 5, 3, 4]);
        assert_eq!(descendants(9, &parents), [8]);
        assert!(descendants(7, &parents).is_empty());
    }
}
