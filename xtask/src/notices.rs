//! Third-party notices: what `sandd` is linked with, under which licence, and that each licence is one we accept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{step::say, tree};

const FILE: &str = "THIRD-PARTY-NOTICES.md";

/// Licences that may be linked into ours. Copyleft of a file (MPL) is fine, of a program is not.
const ACCEPTED: [&str; 13] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "0BSD",
    "Zlib",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
    "Unlicense",
];

struct Package {
    name: String,
    version: String,
    licence: String,
    repository: String,
    directory: String,
}

/// Writes the notices, or with `check` only compares and judges.
pub(crate) fn run(check: bool) -> Result<()> {
    let packages = linked()?;
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !is_accepted(&package.licence))
        .map(|package| format!("{} {} ({})", package.name, package.version, package.licence))
        .collect();
    if !refused.is_empty() {
        bail!("licences that we do not accept: {}", refused.join(", "));
    }
    let text = notices(&packages);
    let path = tree::root().join(FILE);
    if !check {
        fs::write(&path, text)?;
        say(&format!("{FILE}: {} packages", packages.len()));
        return Ok(());
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    if listed(&present) != listed(&text) {
        bail!("{FILE} does not name what Cargo.lock names: run `cargo xtask notices`");
    }
    say(&format!("{} packages, every licence accepted", packages.len()));
    Ok(())
}

/// The lines that name packages; licence texts may differ from machine to machine in their line ends.
fn listed(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|line| line.starts_with("| ")).collect()
}

/// What the program `sandd` is linked with on Linux, our own packages left out.
fn linked() -> Result<Vec<Package>> {
    let metadata = tree::metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"])?;
    let array = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> = array(&metadata, "packages")
        .into_iter()
        .map(|package| (text(&package, "id"), package))
        .collect();
    let nodes: BTreeMap<String, Value> = array(metadata.get("resolve").context("no resolve graph")?, "nodes")
        .into_iter()
        .map(|node| (text(&node, "id"), node))
        .collect();
    let mut waiting: Vec<String> = packages
        .values()
        .filter(|package| text(package, "name") == "sandd")
        .map(|package| text(package, "id"))
        .collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        let Some(node) = nodes.get(&id).filter(|_| reached.insert(id.clone())) else {
            continue;
        };
        for dependency in array(node, "deps") {
            // Kind `null` is a dependency of the program itself, not of its build or its tests.
            if array(&dependency, "dep_kinds")
                .iter()
                .any(|kind| kind.get("kind").is_some_and(Value::is_null))
            {
                waiting.push(text(&dependency, "pkg"));
            }
        }
    }
    let mut linked: Vec<Package> = reached
        .iter()
        .filter_map(|id| packages.get(id))
        .filter(|package| is_foreign(package))
        .map(|package| Package {
            name: text(package, "name"),
            version: text(package, "version"),
            licence: text(package, "license"),
            repository: text(package, "repository"),
            directory: text(package, "manifest_path").trim_end_matches("Cargo.toml").to_owned(),
        })
        .collect();
    linked.sort_by(|left, right| (&left.name, &left.version).cmp(&(&right.name, &right.version)));
    Ok(linked)
}

/// From a registry, or a fork that lies under `vendor/`.
fn is_foreign(package: &Value) -> bool {
    let fork = package
        .get("manifest_path")
        .and_then(Value::as_str)
        .is_some_and(|path| Path::new(path).starts_with(tree::root().join("vendor")));
    fork || package.get("source").is_some_and(|source| !source.is_null())
}

/// Whether some choice of a licence expression is accepted: `A OR B`, `A AND B`, `A/B`, brackets.
fn is_accepted(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    plain
        .split(" OR ")
        .any(|choice| choice.split(" AND ").all(|licence| ACCEPTED.contains(&licence.trim())))
}

fn notices(packages: &[Package]) -> String {
    let mut text = String::from(
        "# Third-party notices\n\nThe program `sandd` is linked with these packages. `cargo xtask notices` writes this file.\n\n\
         | package | version | licence | source |\n| --- | --- | --- | --- |\n",
    );
    for package in packages {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            package.name, package.version, package.licence, package.repository
        );
    }
    // Many packages carry the same text: each is given once, with those that it is for.
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        for licence in licence_texts(Path::new(&package.directory)) {
            texts.entry(licence).or_default().insert(package.name.clone());
        }
    }
    for (licence, names) in texts {
        let names: Vec<String> = names.into_iter().collect();
        let _ = write!(text, "\n## {}\n\n```text\n{}\n```\n", names.join(", "), licence.trim());
    }
    text
}

/// The licence texts in a package's directory, the Apache licence left out when another may be chosen.
fn licence_texts(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            path.is_file()
                && (name.starts_with("LICENSE")
                    || name.starts_with("LICENCE")
                    || name.starts_with("COPYING")
                    || name.starts_with("NOTICE"))
        })
        .collect();
    files.sort();
    let mut texts: Vec<String> = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .map(|text| text.replace('\r', ""))
        .collect();
    if texts.iter().any(|text| !is_apache(text)) {
        texts.retain(|text| !is_apache(text));
    }
    texts
}

fn is_apache(text: &str) -> bool {
    text.contains("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_accepted_choice_is_enough_and_all_parts_are_needed() {
        assert!(is_accepted("GPL-3.0 OR MIT"));
        assert!(is_accepted("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!is_accepted("MIT AND GPL-3.0"));
        assert!(!is_accepted(""));
    }
}
