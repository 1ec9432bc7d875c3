//! What a daemon allows and what it keeps to itself (S-42), pure.

use std::ffi::OsStr;
use std::time::Duration;

/// The longest a command may run.
pub(super) const MAX_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// Commands that run at once unless `--max-commands` says otherwise.
pub const DEFAULT_MAX_COMMANDS: usize = 64;

/// How long commands go on after their controller was lost.
pub const DEFAULT_KEEP_AFTER_LOSS: Duration = Duration::from_secs(60);

/// Variables that belong to SandD and not to the commands it runs.
#[must_use]
pub fn is_private_variable(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"SANDD_") || name == b"SERVER_URL" || name == b"DAEMON_ID"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_variables_are_private() {
        for name in ["SANDD_TUNNEL_AUTH_KEY", "SANDD_ROOT", "SERVER_URL", "DAEMON_ID"] {
            assert!(is_private_variable(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "HOME", "MY_SANDD_X", "SANDDX", "RUST_LOG", "MY_SERVER_URL"] {
            assert!(!is_private_variable(OsStr::new(name)), "{name}");
        }
    }
}
