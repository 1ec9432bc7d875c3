//! How an auth key gets in without being seen (S-03): `file:PATH`, `-`, two variables, and a literal in argv that is gone
//! from `/proc` at once.
//!
//! A literal, or a key in a variable, is put into a pipe, and the process executes itself again with the pipe as stdin,
//! `--tunnel-authkey -` in its place and the variables removed. The process id stays, and a pipe that was read holds
//! nothing any more.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use sandd_mesh::AuthKey;
use zeroize::Zeroizing;

use super::error::CliError;

/// The flag.
const FLAG: &str = "--tunnel-authkey";

/// Variables that hold a key.
const KEY_VARIABLES: [&str; 2] = ["SANDD_TUNNEL_AUTH_KEY", "SANDD_TUNNEL_AUTHKEY"];

/// Variables that name a file with a key.
const FILE_VARIABLES: [&str; 2] = ["SANDD_TUNNEL_AUTH_KEY_FILE", "SANDD_TUNNEL_AUTHKEY_FILE"];

/// The longest key, and less than any pipe holds.
const MAX_KEY: usize = 4_096;

/// Where the arguments name a key.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In the argument after the flag.
    Next(usize),
    /// In the same argument, after `=`.
    Joined(usize),
}

/// Hides a key that stands in argv or in the environment by executing this program again; returns when there is none.
pub(super) fn hide(arguments: &[OsString]) -> Result<(), CliError> {
    let before_end = arguments
        .iter()
        .position(|word| word == "--")
        .unwrap_or(arguments.len());
    let arguments_before = &arguments[..before_end];
    if !joins(arguments_before) {
        return Ok(());
    }
    let place = find(arguments_before);
    let literal = place
        .as_ref()
        .and_then(|place| value(arguments, place))
        .filter(|value| is_literal(value));
    let from_variable = || {
        KEY_VARIABLES
            .iter()
            .find_map(std::env::var_os)
            .filter(|value| !value.is_empty())
    };
    let (key, warn) = match (&place, literal) {
        (_, Some(literal)) => (literal.to_owned(), true),
        (None, None) => match from_variable() {
            Some(key) => (key, false),
            None => return Ok(()),
        },
        // A file or stdin is named: a variable beside it is not used, and must not stay either.
        (Some(_), None) => return Ok(()),
    };
    if warn {
        eprintln!("sandd: warning: a key in the arguments can be seen by others, use {FLAG} file:PATH or a variable");
    }
    Err(execute_again(arguments, place, Zeroizing::new(key.as_bytes().to_vec())))
}

/// True for the commands that join a mesh.
fn joins(arguments: &[OsString]) -> bool {
    let first = arguments
        .get(super::command_position(arguments))
        .and_then(|word| word.to_str())
        .unwrap_or_default();
    match first {
        "up" => true,
        "daemon" | "controller" => arguments.iter().any(|word| word == "--tunnel"),
        flag => flag.starts_with('-') && arguments.iter().any(|word| word == "--tunnel"),
    }
}

fn find(arguments: &[OsString]) -> Option<Place> {
    let joined = |word: &OsString| word.as_bytes().starts_with(format!("{FLAG}=").as_bytes());
    arguments.iter().enumerate().skip(1).find_map(|(at, word)| {
        if word == FLAG && at + 1 < arguments.len() {
            return Some(Place::Next(at + 1));
        }
        joined(word).then_some(Place::Joined(at))
    })
}

fn value<'a>(arguments: &'a [OsString], place: &Place) -> Option<&'a OsStr> {
    match place {
        Place::Next(at) => arguments.get(*at).map(OsString::as_os_str),
        Place::Joined(at) => arguments
            .get(*at)
            .map(|word| OsStr::from_bytes(&word.as_bytes()[FLAG.len() + 1..])),
    }
}

fn is_literal(value: &OsStr) -> bool {
    value != "-" && !value.as_bytes().starts_with(b"file:") && !value.is_empty()
}

/// Never returns when it works.
fn execute_again(arguments: &[OsString], place: Option<Place>, key: Zeroizing<Vec<u8>>) -> CliError {
    if key.len() > MAX_KEY {
        return CliError::usage("the auth key is longer than any key");
    }
    let mut rest: Vec<OsString> = arguments.iter().skip(1).cloned().collect();
    match place {
        Some(Place::Next(at)) => rest[at - 1] = "-".into(),
        Some(Place::Joined(at)) => rest[at - 1] = format!("{FLAG}=-").into(),
        None => {
            // Behind the command's name where there is one.
            let position = super::command_position(arguments);
            let is_name = arguments
                .get(position)
                .is_some_and(|word| !word.as_bytes().starts_with(b"-"));
            let at = position - 1 + usize::from(is_name);
            rest.splice(at..at, [FLAG.into(), "-".into()]);
        }
    }
    let piped = std::io::pipe().and_then(|(reader, mut writer)| writer.write_all(&key).map(|()| reader));
    let reader = match piped {
        Ok(reader) => reader,
        Err(error) => return CliError::failed(format!("the auth key cannot be handed over: {error}")),
    };
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()));
    if let Some(name) = arguments.first() {
        command.arg0(name);
    }
    for name in KEY_VARIABLES {
        command.env_remove(name);
    }
    let error = command.args(rest).stdin(Stdio::from(reader)).exec();
    CliError::failed(format!(
        "the program cannot execute itself again to hide the auth key: {error}"
    ))
}

/// The key that flag or variables name, if any does.
pub(super) fn read(flag: Option<&str>) -> Result<Option<AuthKey>, CliError> {
    let key = match flag {
        Some("-") => read_from(std::io::stdin().lock(), "stdin")?,
        Some(text) => match text.strip_prefix("file:") {
            Some(path) => read_file(Path::new(path))?,
            None => AuthKey::new(text),
        },
        None => match FILE_VARIABLES
            .iter()
            .find_map(std::env::var_os)
            .filter(|path| !path.is_empty())
        {
            Some(path) => read_file(Path::new(&path))?,
            None => return Ok(None),
        },
    };
    if key.is_empty() {
        return Err(CliError::usage(format!("{FLAG} is empty")));
    }
    Ok(Some(key))
}

fn read_file(path: &Path) -> Result<AuthKey, CliError> {
    let shown = path.display().to_string();
    let file = std::fs::File::open(path)
        .map_err(|error| CliError::failed(format!("the auth key cannot be read from {shown}: {error}")))?;
    read_from(BufReader::new(file), &shown)
}

/// The first line, so that a person may type it.
fn read_from(reader: impl BufRead, shown: &str) -> Result<AuthKey, CliError> {
    let failed = |why: &str| CliError::failed(format!("the auth key cannot be read from {shown}: {why}"));
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY + 1));
    let mut limited = reader.take(MAX_KEY as u64 + 1);
    limited
        .read_until(b'\n', &mut bytes)
        .map_err(|error| failed(&error.to_string()))?;
    if bytes.len() > MAX_KEY {
        return Err(failed("it is longer than any key"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is no text"))?;
    Ok(AuthKey::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        let place = |text: &str| find(&words(text));
        assert_eq!(place("sandd -s u --tunnel-authkey KEY --tunnel"), Some(Place::Next(4)));
        assert_eq!(place("sandd up --tunnel-authkey=KEY"), Some(Place::Joined(2)));
        assert_eq!(place("sandd up --tunnel-authkey"), None);
        assert_eq!(place("sandd up"), None);
        let arguments = words("sandd up --tunnel-authkey=KEY");
        assert_eq!(value(&arguments, &Place::Joined(2)).unwrap(), "KEY");
        for (text, expected) in [("KEY", true), ("-", false), ("file:/x", false), ("", false)] {
            assert_eq!(is_literal(OsStr::new(text)), expected, "{text}");
        }
    }

    #[test]
    fn only_commands_that_join_hide_keys() {
        for text in [
            "sandd up",
            "sandd --tunnel -s u",
            "sandd daemon --tunnel",
            "sandd controller --tunnel",
        ] {
            assert!(joins(&words(text)), "{text}");
        }
        for text in [
            "sandd",
            "sandd -s u",
            "sandd daemon",
            "sandd exec w",
            "sandd status",
            "sandd coordinator",
        ] {
            assert!(!joins(&words(text)), "{text}");
        }
    }

    #[test]
    fn files_and_their_faults() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, " key-1 \nnot this\n").unwrap();
        let flag = format!("file:{}", path.display());
        assert!(read(Some(&flag)).unwrap().is_some());
        std::fs::write(&path, "\n").unwrap();
        assert!(read(Some(&flag)).is_err());
        std::fs::write(&path, "x".repeat(5_000)).unwrap();
        assert!(read(Some(&flag)).unwrap_err().message().contains("longer"));
        assert!(read(Some("file:/no/such")).unwrap_err().message().contains("/no/such"));
    }
}
