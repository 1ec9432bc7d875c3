//! `cargo xtask arch`: the layers and the house rules that the compiler does not know.
//!
//! It reads source text, not types: names of modules, `use` trees and a few words. Tests are exempt.

mod checks;
mod layers;
mod source;

use std::fs;

use anyhow::{Context as _, Result, bail};

use self::source::Source;
use crate::{step::say, tree};

/// The packages whose sources are judged; the rest (tests, tasks, examples) only for size and head line.
const PRODUCT: [&str; 5] = ["aead", "control-client", "mesh", "coordinator", "sandd"];

/// Judges the whole workspace and prints every offence.
pub(crate) fn run() -> Result<()> {
    let root = tree::root();
    let mut offences = checks::manifests(&root)?;
    let (mut lines, mut unwraps) = (0, Vec::new());
    for package in PRODUCT {
        let directory = root.join("crates").join(package).join("src");
        for path in tree::rust_files(&directory)? {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let relative = path.strip_prefix(&directory)?;
            let name = path.strip_prefix(&root)?.display().to_string();
            if source::is_test_file(relative) {
                offences.extend(checks::head(&name, &text));
                continue;
            }
            let source = Source::read(&text);
            let module = source::module_of(relative);
            offences.extend(checks::head(&name, &text));
            offences.extend(checks::ceiling(&name, &source));
            offences.extend(checks::unbounded(&name, &source));
            offences.extend(checks::purity(package, &module, &name, &source));
            offences.extend(layers::judge(package, &module, &name, &source));
            lines += source.code_lines();
            unwraps.extend(checks::unwraps(&name, &source));
        }
    }
    for directory in ["tests", "xtask", "fuzz", "benches", "examples"] {
        for path in tree::rust_files(&root.join(directory))? {
            let text = fs::read_to_string(&path)?;
            let name = path.strip_prefix(&root)?.display().to_string();
            offences.extend(checks::head(&name, &text));
            offences.extend(checks::ceiling(&name, &Source::read(&text)));
        }
    }
    if unwraps.len() * 1000 >= checks::UNWRAPS_PER_THOUSAND * lines.max(1) && !unwraps.is_empty() {
        offences.push(format!(
            "{} unwraps and expects in {lines} lines of code:",
            unwraps.len()
        ));
        offences.extend(unwraps.iter().map(|place| format!("    {place}")));
    }
    for offence in &offences {
        say(offence);
    }
    if !offences.is_empty() {
        bail!("{} offences against the layers and house rules", offences.len());
    }
    say(&format!("{lines} lines of code, {} unwraps and expects", unwraps.len()));
    Ok(())
}
